//! What a region's database really holds, asked of PostgreSQL's catalog and of the file system: never of the log itself,
//! whose word is what the demo checks.

use std::io::ErrorKind;
use std::path::Path;

use domain::Timestamp;
use sqlx::{Connection, PgConnection};

use super::DemoError;
use crate::dev::Region;

async fn connect(region: &Region) -> Result<PgConnection, DemoError> {
    PgConnection::connect(&region.superuser_url()).await.map_err(asking)
}

fn asking(source: sqlx::Error) -> DemoError {
    DemoError::Io { doing: "asking the database", source: std::io::Error::other(source) }
}

/// Bytes of all tables and indexes of the log and its views.
pub(super) async fn database_bytes(region: &Region) -> Result<u64, DemoError> {
    let sql = include_str!("sql/database_bytes.sql");
    let bytes: i64 = sqlx::query_scalar(sql).fetch_one(&mut connect(region).await?).await.map_err(asking)?;
    u64::try_from(bytes).map_err(|_| DemoError::Check(format!("{bytes} bytes are a size")))
}

/// Tables of events of months before `cutoff`, attached or not, by name.
pub(super) async fn months_before(region: &Region, cutoff: Timestamp) -> Result<Vec<String>, DemoError> {
    let sql = include_str!("sql/months_before.sql");
    let mut connection = connect(region).await?;
    sqlx::query_scalar(sql).bind(cutoff.to_string()).fetch_all(&mut connection).await.map_err(asking)
}

/// Bytes of all files below a folder, whose owner may add and remove some meanwhile.
///
/// # Errors
/// If it cannot be read, for another reason than that something in it has just gone.
pub(super) fn folder_bytes(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in present(std::fs::read_dir(&folder))?.into_iter().flatten() {
            let entry = entry?;
            match present(entry.metadata())? {
                Some(found) if found.is_dir() => folders.push(entry.path()),
                Some(found) => bytes += found.len(),
                None => {}
            }
        }
    }
    Ok(bytes)
}

fn present<T>(found: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_the_bytes_of_its_files() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("inner")).expect("made");
        std::fs::write(folder.path().join("inner/a"), [0; 700]).expect("written");
        std::fs::write(folder.path().join("b"), [0; 41]).expect("written");
        assert_eq!(folder_bytes(folder.path()).expect("measured"), 741);
    }
}
