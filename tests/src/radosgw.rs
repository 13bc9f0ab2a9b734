//! A private Ceph with its S3 gateway, for the object store's suite against an endpoint that is not ours: one
//! monitor, one object daemon that keeps everything in memory, one gateway. It lives in a folder of its own on
//! free ports of 127.0.0.1, and ends with its owner. Nothing in it survives, and it must never hold real data.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The key pair of the gateway's one user.
pub const ACCESS_KEY: &str = "coldstream";
/// Its secret half.
pub const SECRET_KEY: &str = "coldstream-secret";

const PROGRAMS: [&str; 7] = ["ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin"];
const CLUSTER_ID: &str = "0a1b2c3d-0000-4000-8000-000000000001";
const OSD_ID: &str = "0a1b2c3d-0000-4000-8000-000000000002";
/// How often the gateway is asked whether it serves, a quarter of a second apart.
const START_ATTEMPTS: u32 = 240;

/// A running gateway. Dropping it ends all of its processes.
pub struct Radosgw {
    endpoint: String,
    folder: PathBuf,
    /// In the order in which they end: the gateway first.
    daemons: Vec<Child>,
}

impl Radosgw {
    /// The programs that are missing for it. Debian: `apt-get install radosgw ceph-mon ceph-osd`.
    #[must_use]
    pub fn missing() -> Vec<&'static str> {
        let folders: Vec<PathBuf> = std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect();
        let found = |program: &&str| folders.iter().any(|folder| folder.join(program).is_file());
        PROGRAMS.into_iter().filter(|program| !found(program)).collect()
    }

    /// Starts it in `folder`, which has to be empty, and returns when it serves.
    ///
    /// # Panics
    /// With the daemons' own words if it does not start: the test that needs it cannot go on.
    pub async fn start(folder: &Path) -> Self {
        let ports = free_ports().expect("free ports");
        let mut gateway =
            Self { endpoint: format!("http://127.0.0.1:{}", ports[2]), folder: folder.into(), daemons: Vec::new() };
        for part in ["mon", "osd", "gateway", "run"] {
            std::fs::create_dir(folder.join(part)).expect("an empty folder");
        }
        std::fs::write(gateway.conf(), conf(folder, ports)).expect("a configuration is written");
        gateway.start_monitor(ports);
        gateway.run("ceph", &["osd", "new", OSD_ID]);
        gateway.run("ceph-osd", &["-i", "0", "--mkfs", "--osd-uuid", OSD_ID]);
        gateway.spawn("ceph-osd", &["-i", "0", "-f"]);
        let keys = ["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY];
        gateway.run("radosgw-admin", &[&["user", "create", "--uid=test", "--display-name=test"], &keys[..]].concat());
        gateway.spawn("radosgw", &["-n", "client.admin", "-f"]);
        gateway.wait_until_it_serves().await;
        gateway
    }

    /// `http://127.0.0.1:<port>`, for path-style requests.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    fn conf(&self) -> PathBuf {
        self.folder.join("ceph.conf")
    }

    fn start_monitor(&mut self, [v2, v1, _]: [u16; 3]) {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let (map, keys) = (path("monmap"), path("keyring"));
        let addresses = format!("[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]");
        self.run("monmaptool", &["--create", "--addv", "a", &addresses, "--fsid", CLUSTER_ID, &map]);
        self.run("ceph-authtool", &["--create-keyring", &keys, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"]);
        self.run("ceph-mon", &["--mkfs", "-i", "a", "--monmap", &map, "--keyring", &keys]);
        self.spawn("ceph-mon", &["-i", "a", "-f"]);
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        // With the owner dies the child, also when the owner is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", program]).args(arguments);
        command.env("CEPH_CONF", self.conf()).stdin(Stdio::null());
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        // The cluster answers within seconds, or never: a client of it waits for ever by itself.
        let mut command = Command::new("timeout");
        command.args(["120", program]).args(arguments).env("CEPH_CONF", self.conf()).stdin(Stdio::null());
        let output = command.output().expect("the program is installed");
        assert!(
            output.status.success(),
            "{program} {arguments:?} ended with {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn spawn(&mut self, program: &str, arguments: &[&str]) {
        let said = File::create(self.folder.join(format!("{program}.out"))).expect("a file for what it says");
        let also = said.try_clone().expect("a second handle");
        let child =
            self.command(program, arguments).stdout(said).stderr(also).spawn().expect("the program is installed");
        self.daemons.insert(0, child);
    }

    async fn wait_until_it_serves(&mut self) {
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        let address = self.endpoint.trim_start_matches("http://").to_owned();
        for _ in 0..START_ATTEMPTS {
            tick.tick().await;
            if tokio::net::TcpStream::connect(&address).await.is_ok() {
                return;
            }
            let ended = self.daemons.iter_mut().any(|daemon| !matches!(daemon.try_wait(), Ok(None)));
            if ended {
                break;
            }
        }
        panic!("the gateway does not serve: {}", self.said());
    }

    fn said(&self) -> String {
        let files = ["ceph-mon.out", "ceph-osd.out", "radosgw.out", "client.admin.log"];
        let texts = files.map(|file| std::fs::read_to_string(self.folder.join(file)).unwrap_or_default());
        texts.join("\n")
    }
}

impl Drop for Radosgw {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            // It may have ended by itself; either way it is gone after the wait, and its folder may go too.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn free_ports() -> io::Result<[u16; 3]> {
    let listeners =
        [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    Ok([listeners[0].local_addr()?.port(), listeners[1].local_addr()?.port(), listeners[2].local_addr()?.port()])
}

/// One copy of everything, in memory, without authentication inside: nothing but the gateway is reached by
/// anybody. The gateway would encrypt its way to the monitor, for which there are no keys then; hence `crc`.
fn conf(folder: &Path, [v2, v1, s3]: [u16; 3]) -> String {
    let folder = folder.display();
    format!(
        "[global]\n\
         fsid = {CLUSTER_ID}\n\
         mon host = [v2:127.0.0.1:{v2}/0,v1:127.0.0.1:{v1}/0]\n\
         mon initial members = a\n\
         public addr = 127.0.0.1\n\
         cluster addr = 127.0.0.1\n\
         auth cluster required = none\n\
         auth service required = none\n\
         auth client required = none\n\
         ms mon client mode = crc\n\
         ms mon service mode = crc\n\
         ms mon cluster mode = crc\n\
         osd pool default size = 1\n\
         osd pool default min size = 1\n\
         osd pool default pg num = 4\n\
         osd crush chooseleaf type = 0\n\
         osd objectstore = memstore\n\
         memstore device bytes = 2147483648\n\
         mon allow pool size one = true\n\
         mon data avail crit = 1\n\
         mon data = {folder}/mon\n\
         osd data = {folder}/osd\n\
         rgw data = {folder}/gateway\n\
         rgw frontends = beast endpoint=127.0.0.1:{s3}\n\
         run dir = {folder}/run\n\
         keyring = {folder}/keyring\n\
         log file = {folder}/$name.log\n\
         admin socket =\n\
         pid file =\n"
    )
}
