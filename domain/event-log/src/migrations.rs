//! The schema's migrations: forward only, each once, in order, by the owner. A service never migrates: it checks that
//! the schema is its own and refuses any other.

use domain::merkle::Hash;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};

use crate::error::EventLogError;

struct Migration {
    version: i32,
    name: &'static str,
    sql: &'static str,
}

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "log", sql: include_str!("../migrations/0001_log.sql") },
    Migration { version: 2, name: "catalog", sql: include_str!("../migrations/0002_catalog.sql") },
    Migration { version: 3, name: "guards", sql: include_str!("../migrations/0003_guards.sql") },
    Migration { version: 4, name: "partitions", sql: include_str!("../migrations/0004_partitions.sql") },
    Migration { version: 5, name: "grants", sql: include_str!("../migrations/0005_grants.sql") },
    Migration { version: 6, name: "wind back", sql: include_str!("../migrations/0006_wind_back.sql") },
    Migration { version: 7, name: "kept ids", sql: include_str!("../migrations/0007_kept_ids.sql") },
    Migration { version: 8, name: "tags", sql: include_str!("../migrations/0008_tags.sql") },
    Migration { version: 9, name: "token limits", sql: include_str!("../migrations/0009_token_limits.sql") },
    Migration { version: 10, name: "catalog indexes", sql: include_str!("../migrations/0010_catalog_indexes.sql") },
    Migration { version: 11, name: "consumer groups", sql: include_str!("../migrations/0011_consumer_groups.sql") },
    Migration { version: 12, name: "prune guards", sql: include_str!("../migrations/0012_prune_guards.sql") },
];

/// Applies what is missing, all or nothing, and returns the names. `connection` acts as the owner; several may try at
/// once.
pub(crate) async fn apply(connection: &mut PgConnection) -> Result<Vec<&'static str>, EventLogError> {
    let failed = EventLogError::database;
    let mut transaction = connection.begin().await.map_err(failed("beginning the migrations"))?;
    let claim = sqlx::raw_sql(include_str!("sql/claim_migrations.sql")).execute(&mut *transaction).await;
    claim.map_err(failed("claiming the migrations"))?;
    let found = applied(&mut transaction).await.map_err(failed("reading which migrations are applied"))?;
    compare(&found)?;
    let mut names = Vec::new();
    for migration in &MIGRATIONS[found.len()..] {
        sqlx::raw_sql(migration.sql).execute(&mut *transaction).await.map_err(failed("applying a migration"))?;
        sqlx::query("INSERT INTO coldstream.migrations (version, name, sha256) VALUES ($1, $2, $3)")
            .bind(migration.version)
            .bind(migration.name)
            .bind(&Hash::of(migration.sql.as_bytes()).0[..])
            .execute(&mut *transaction)
            .await
            .map_err(failed("noting a migration"))?;
        names.push(migration.name);
    }
    transaction.commit().await.map_err(failed("committing the migrations"))?;
    Ok(names)
}

/// The names of what [`apply`] would apply. `is_there`: the table of migrations is. Changes nothing.
pub(crate) async fn missing(connection: &mut PgConnection, is_there: bool) -> Result<Vec<&'static str>, EventLogError> {
    let found = match is_there {
        true => applied(connection).await.map_err(EventLogError::database("reading which migrations are applied"))?,
        false => Vec::new(),
    };
    compare(&found)?;
    Ok(MIGRATIONS[found.len()..].iter().map(|migration| migration.name).collect())
}

/// Refuses a database whose schema is not this program's.
pub(crate) async fn check(connection: &mut PgConnection) -> Result<(), EventLogError> {
    let found = match applied(connection).await {
        Ok(found) => found,
        Err(error) if crate::error::trouble(&error) == crate::error::Trouble::Gone => {
            return Err(EventLogError::NotInitialised);
        }
        Err(source) => return Err(EventLogError::Database { doing: "reading the schema's version", source }),
    };
    compare(&found)?;
    let needed = MIGRATIONS.last().map_or(0, |migration| migration.version);
    match found.last() {
        None => Err(EventLogError::NotInitialised),
        Some((version, _)) if *version < needed => Err(EventLogError::WrongSchema {
            found: *version,
            needed,
            advice: "run `coldstream db init`, which also migrates",
        }),
        Some(_) => Ok(()),
    }
}

async fn applied(connection: &mut PgConnection) -> Result<Vec<(i32, Vec<u8>)>, sqlx::Error> {
    let rows = sqlx::query("SELECT version, sha256 FROM coldstream.migrations ORDER BY version").fetch_all(connection);
    rows.await?.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// What was applied must be the beginning of what this program has, text by text.
fn compare(found: &[(i32, Vec<u8>)]) -> Result<(), EventLogError> {
    let needed = MIGRATIONS.last().map_or(0, |migration| migration.version);
    for (index, (version, sha256)) in found.iter().enumerate() {
        match MIGRATIONS.get(index) {
            Some(own) if own.version == *version && Hash::of(own.sql.as_bytes()).0[..] == sha256[..] => {}
            Some(_) => return Err(EventLogError::MigrationChanged { version: *version }),
            None => {
                let advice = "the schema is newer than this program";
                return Err(EventLogError::WrongSchema { found: *version, needed, advice });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_applied() -> Vec<(i32, Vec<u8>)> {
        MIGRATIONS.iter().map(|m| (m.version, Hash::of(m.sql.as_bytes()).0.to_vec())).collect()
    }

    #[test]
    fn versions_count_from_one() {
        assert!(MIGRATIONS.iter().zip(1..).all(|(migration, number)| migration.version == number));
    }

    #[test]
    fn a_schema_with_another_text_or_of_a_newer_release_is_refused() {
        assert!(compare(&as_applied()).is_ok());
        let mut changed = as_applied();
        changed[2].1[0] ^= 1;
        assert!(matches!(compare(&changed), Err(EventLogError::MigrationChanged { version: 3 })));
        let mut newer = as_applied();
        let next = MIGRATIONS.last().map_or(1, |migration| migration.version + 1);
        newer.push((next, vec![0; 32]));
        assert!(matches!(compare(&newer), Err(EventLogError::WrongSchema { found, .. }) if found == next));
    }
}
