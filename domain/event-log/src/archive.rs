//! The archive's and the other region's state in the database: the ports that seal → verify → prune, the evidence and
//! the replication stand on. Rows here are a cache of the bucket, except what prunes.

mod catalog;
mod evidence;
mod peer;
mod prune;

pub use prune::{Maintenance, Space};

use domain::archive::catalog::CatalogError;
use domain::merkle::Hash;

use crate::error::{chain, trouble};

/// What an error of the driver means for the catalog.
fn catalog_error(error: sqlx::Error) -> CatalogError {
    let reason = match &error {
        sqlx::Error::Database(database) => database.message().to_owned(),
        other => chain(other),
    };
    let refused = matches!(&error, sqlx::Error::Database(e) if e.code().as_deref() == Some("55000"));
    tracing::debug!(trouble = ?trouble(&error), refused, reason, "the catalog did not do it");
    // object_not_in_prerequisite_state: a doubt of the database's own functions.
    if refused { CatalogError::Refused { reason } } else { CatalogError::Unavailable { reason } }
}

fn refused(reason: impl Into<String>) -> CatalogError {
    CatalogError::Refused { reason: reason.into() }
}

/// A SHA-256 column.
fn hash(bytes: Vec<u8>) -> Result<Hash, sqlx::Error> {
    let length = bytes.len();
    let hash = bytes.try_into().map_err(|_| sqlx::Error::Decode(format!("{length} bytes are no SHA-256").into()))?;
    Ok(Hash(hash))
}
