//! What this machine offers to a private cluster: server binaries, an unprivileged account, a folder that the
//! account can reach, a free port. Looks and chooses; the only thing it makes is an empty folder.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::PostgresError;
use crate::chance;

/// Names a folder with `initdb` and `postgres`, before every other place.
pub const BIN_VARIABLE: &str = "COLDSTREAM_PG_BIN";

/// Where Debian and Ubuntu put each major version.
const PACKAGED: &str = "/usr/lib/postgresql";

/// A unix socket's path has at most 107 bytes (unix(7)); `/.s.PGSQL.65535.lock` takes 20 of them.
const SOCKET_FOLDER_BYTES_MAX: usize = 80;

/// Below the ports that Linux hands to outgoing connections (32768 and up), so that a port stays free
/// while a cluster is down between a kill and its restart.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// The folder with the server binaries: the environment variable, else the newest packaged version, else PATH.
pub(super) fn find() -> Result<PathBuf, PostgresError> {
    if let Some(folder) = std::env::var_os(BIN_VARIABLE) {
        let folder = PathBuf::from(folder);
        return if complete(&folder) { Ok(folder) } else { Err(PostgresError::WrongBinFolder { folder }) };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    packaged(Path::new(PACKAGED))
        .into_iter()
        .chain(std::env::split_paths(&path))
        .find(|folder| complete(folder))
        .ok_or(PostgresError::BinariesMissing)
}

/// The `bin` folders of all packaged versions, newest first.
fn packaged(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let mut versions: Vec<u32> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions.into_iter().map(|version| root.join(version.to_string()).join("bin")).collect()
}

fn complete(folder: &Path) -> bool {
    folder.join("initdb").is_file() && folder.join("postgres").is_file()
}

/// The account a cluster runs under when we are root, whom PostgreSQL refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// `None` when we are not root and the cluster simply runs as we do.
pub(super) fn account() -> Result<Option<Account>, PostgresError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd")
        .map_err(|source| PostgresError::Io { doing: "reading /etc/passwd", source })?;
    let found = ["postgres", "nobody"].into_iter().find_map(|name| parse_account(&users, name));
    found.map(Some).ok_or(PostgresError::NoUnprivilegedUser)
}

/// One line of passwd(5): `name:password:uid:gid:…`.
fn parse_account(users: &str, name: &str) -> Option<Account> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        (found && uid != 0).then(|| Account { name: name.to_owned(), uid, gid })
    })
}

/// Makes an empty private folder with a short path, owned by `account`, for sockets, log and throw-away data.
pub(super) fn make_scratch(account: Option<&Account>) -> Result<PathBuf, PostgresError> {
    let preferred = std::env::temp_dir();
    let fits = preferred.as_os_str().len() <= SOCKET_FOLDER_BYTES_MAX - 20 && reachable(&preferred, account);
    let parent = if fits { preferred } else { PathBuf::from("/tmp") };
    let folder = parent.join(format!("cold-pg-{:08x}", chance::random::<u32>()));
    let io = |source| PostgresError::Io { doing: "making the cluster's folder", source };
    // `create` refuses a name that exists, so nobody can have put something there for us.
    std::fs::DirBuilder::new().mode(0o700).create(&folder).map_err(io)?;
    give(&folder, account)?;
    Ok(folder)
}

/// Makes `folder` with its parents, for data that is kept, and checks that the account can get there.
pub(super) fn make_kept(folder: &Path, account: Option<&Account>) -> Result<PathBuf, PostgresError> {
    let io = |source| PostgresError::Io { doing: "making the data folder", source };
    if !folder.exists() {
        std::fs::create_dir_all(folder).map_err(io)?;
        give(folder, account)?;
    }
    let folder = folder.canonicalize().map_err(io)?;
    if reachable(&folder, account) {
        return Ok(folder);
    }
    let user = account.map_or_else(String::new, |account| account.name.clone());
    Err(PostgresError::Unreachable { folder, user })
}

fn give(folder: &Path, account: Option<&Account>) -> Result<(), PostgresError> {
    let Some(account) = account else { return Ok(()) };
    std::os::unix::fs::chown(folder, Some(account.uid), Some(account.gid))
        .map_err(|source| PostgresError::Io { doing: "giving the folder to the unprivileged user", source })
}

/// Whether `account` may pass through `folder` and everything above it.
fn reachable(folder: &Path, account: Option<&Account>) -> bool {
    let Some(account) = account else { return true };
    folder.ancestors().filter(|above| above.as_os_str() != OsStr::new("")).all(|above| {
        std::fs::metadata(above).is_ok_and(|found| {
            let wanted = match () {
                () if found.uid() == account.uid => 0o100,
                () if found.gid() == account.gid => 0o010,
                () => 0o001,
            };
            found.mode() & wanted != 0
        })
    })
}

/// A port on 127.0.0.1 that is free at this moment; somebody may take it before the server does.
pub(super) fn free_port() -> Option<u16> {
    use rand::Rng as _;
    let start = chance::generator().random_range(PORTS);
    (start..PORTS.end).chain(PORTS.start..start).find(|port| port_is_free(*port))
}

pub(super) fn port_is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_packaged_version_comes_first() {
        let root = tempfile::tempdir().unwrap();
        for version in ["9", "15", "17", "not-a-version"] {
            std::fs::create_dir(root.path().join(version)).unwrap();
        }
        let found = packaged(root.path());
        let expected: Vec<_> = ["17", "15", "9"].map(|version| root.path().join(version).join("bin")).into();
        assert_eq!(found, expected);
    }

    #[test]
    fn an_account_is_read_from_passwd_and_is_never_root() {
        let users = "root:x:0:0::/root:/bin/sh\npostgres:x:101:104:PostgreSQL,,,:/var/lib:/bin/bash\n";
        let expected = Account { name: "postgres".into(), uid: 101, gid: 104 };
        assert_eq!(parse_account(users, "postgres"), Some(expected));
        assert_eq!(parse_account(users, "root"), None);
        assert_eq!(parse_account(users, "nobody"), None);
    }
}
