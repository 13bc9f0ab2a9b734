//! The schema of the runner, step by step, forward only; and the registration of views.

use domain::merkle::Hash;
use sqlx::{Connection, PgConnection};

use crate::content::ContentView;
use crate::{ProjectionError, View};

const MIGRATIONS: [(i32, &str, &str); 3] = [
    (1, "progress", include_str!("../migrations/0001_progress.sql")),
    (2, "content", include_str!("../migrations/0002_content_1.sql")),
    (3, "rebuild beside", include_str!("../migrations/0003_rebuild_beside.sql")),
];

/// Brings the schema of the runner up to date, each step in its own transaction, and installs this crate's own views.
/// May be called by several processes at once, and again.
///
/// The log's own schema has to be there (views register in `coldstream.consumers`), and its roles: `connection`
/// acts as the owner, the service gets its grants.
///
/// # Errors
/// [`ProjectionError::Database`] with what PostgreSQL said, `MigrationChanged`; the steps before it are done then.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), ProjectionError> {
    for (number, _, sql) in MIGRATIONS {
        let mut tx = connection.begin().await.map_err(ProjectionError::database("begin a migration"))?;
        // An advisory lock, held to the end of the transaction, because before the first step there is no table
        // that could be locked.
        sqlx::raw_sql(include_str!("migrate/prepare.sql"))
            .execute(&mut *tx)
            .await
            .map_err(ProjectionError::database("prepare the migrations of the views"))?;
        let sha256 = Hash::of(sql.as_bytes()).0;
        let (is_new, found): (bool, [u8; 32]) = sqlx::query_as(include_str!("migrate/claim.sql"))
            .bind(number)
            .bind(sha256)
            .fetch_one(&mut *tx)
            .await
            .map_err(ProjectionError::database("claim a migration of the views"))?;
        if found != sha256 {
            return Err(ProjectionError::MigrationChanged { number });
        }
        if is_new {
            sqlx::raw_sql(sql).execute(&mut *tx).await.map_err(ProjectionError::database("migrate the views"))?;
        }
        tx.commit().await.map_err(ProjectionError::database("commit a migration of the views"))?;
    }
    install(connection, &ContentView).await
}

/// The names of the steps that [`migrate`] would do. Changes nothing.
///
/// # Errors
/// [`ProjectionError::Database`]; `MigrationChanged`, as [`migrate`] would.
pub async fn missing(connection: &mut PgConnection) -> Result<Vec<&'static str>, ProjectionError> {
    let looking = || ProjectionError::database("look which migrations of the views are done");
    let there = "SELECT to_regclass('projections.migrations') IS NOT NULL";
    let is_there: bool = sqlx::query_scalar(there).fetch_one(&mut *connection).await.map_err(looking())?;
    let mut done: Vec<(i32, [u8; 32])> = Vec::new();
    if is_there {
        let all = sqlx::query_as("SELECT number, sha256 FROM projections.migrations");
        done = all.fetch_all(connection).await.map_err(looking())?;
    }
    let mut missing = Vec::new();
    for (number, name, sql) in MIGRATIONS {
        match done.iter().find(|(known, _)| *known == number) {
            None => missing.push(name),
            Some((_, sha256)) if *sha256 == Hash::of(sql.as_bytes()).0 => {}
            Some(_) => return Err(ProjectionError::MigrationChanged { number }),
        }
    }
    Ok(missing)
}

/// Registers a view as this program has it, and creates its tables if it is new here. Where its fold has grown, its
/// rows stay those of the old one until they are rebuilt. May be called again. `connection` acts as the owner.
///
/// # Errors
/// [`ProjectionError::Database`] with what PostgreSQL said: for tables that cannot be created, for one without a primary
/// key, and for other tables under the same fold. Nothing was changed then.
pub async fn install(connection: &mut PgConnection, view: &dyn View) -> Result<(), ProjectionError> {
    let installed = sqlx::query(include_str!("migrate/install.sql"))
        .bind(view.name())
        .bind(view.fold())
        .bind(view.tables())
        .execute(connection)
        .await;
    installed.map(drop).map_err(ProjectionError::database("install a view"))
}

/// Takes a view out of the database, with its rows and what a rebuild has left: nothing waits for it any more, pruning
/// neither. A runner of it ends with `NotSetUp`. `false`: there is none. `connection` acts as the owner.
///
/// # Errors
/// [`ProjectionError::Database`]; of kind `Unavailable` while queries are at its tables. Nothing was changed then.
pub async fn uninstall(connection: &mut PgConnection, view: &str) -> Result<bool, ProjectionError> {
    let failed = || ProjectionError::database("take a view out");
    let mut tx = connection.begin().await.map_err(failed())?;
    sqlx::raw_sql(include_str!("migrate/patience.sql")).execute(&mut *tx).await.map_err(failed())?;
    let schemas = sqlx::query_scalar(include_str!("migrate/schemas.sql")).bind(view).fetch_optional(&mut *tx).await;
    let Some(drop_schemas): Option<String> = schemas.map_err(failed())? else { return Ok(false) };
    sqlx::raw_sql(&drop_schemas).execute(&mut *tx).await.map_err(failed())?;
    for forget in [
        "DELETE FROM projections.rebuilds WHERE view = $1",
        "DELETE FROM projections.progress WHERE view = $1",
        "DELETE FROM projections.views WHERE name = $1",
        "DELETE FROM coldstream.consumers WHERE name = $1",
    ] {
        sqlx::query(forget).bind(view).execute(&mut *tx).await.map_err(failed())?;
    }
    tx.commit().await.map_err(failed())?;
    Ok(true)
}
