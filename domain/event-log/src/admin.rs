//! What an administrator does once: roles, schema, and the log itself. The service does none of it and could not. The
//! service's password never leaves this process: the server is sent what it verifies the password by.

use std::str::FromStr as _;

use domain::append::Role;
use domain::archive::catalog::Copies;
use domain::window::LiveWindow;
use domain::{Epoch, Timestamp};
use postgres_protocol::password::scram_sha_256;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use uuid::Uuid;

use crate::error::EventLogError;
use crate::instant::Instant;
use crate::migrations;
use crate::session::check_version;

/// The role that the service logs in as.
#[derive(Clone)]
pub struct ServiceLogin {
    /// Its name.
    pub name: String,
    /// Its password; without one the server's own rules decide (`pg_hba.conf`).
    pub password: Option<String>,
}

/// A log to be created.
#[derive(Debug, Clone)]
pub struct NewLog {
    /// Name of the log, the same in all regions.
    pub log_id: String,
    /// Made for this database: what was cached of another one is not believed.
    pub incarnation: Uuid,
    /// What the region is.
    pub role: Role,
    /// The epoch in force.
    pub epoch: Epoch,
    /// The earliest instant that `recordedat` may have. The year 1 lets a migration bring its own times.
    pub earliest: Timestamp,
    /// The live window.
    pub window: LiveWindow,
    /// How many copies pruning waits for.
    pub copies: Copies,
    /// Now, if time is to be simulated in this log for ever.
    pub simulated_now: Option<Timestamp>,
}

/// What `db init` would do, and would find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Roles that there are not.
    pub roles: Vec<String>,
    /// Migrations of the log that are not applied.
    pub migrations: Vec<&'static str>,
    /// Name of the log that is there.
    pub log: Option<String>,
}

/// An administrator's session.
pub struct Admin {
    connection: PgConnection,
}

impl Admin {
    /// Connects as a role that may create roles and schemas.
    ///
    /// # Errors
    /// `Url`, `Database`; `Unsafe` for a server that is too old.
    pub async fn connect(url: &str) -> Result<Self, EventLogError> {
        let options = PgConnectOptions::from_str(url).map_err(EventLogError::Url)?;
        // The driver would log a statement that waited for a second, with all of its text.
        let connection = PgConnection::connect_with(&options.disable_statement_logging()).await;
        let connection = connection.map_err(EventLogError::database("connecting as administrator"))?;
        check_version(&connection).map_err(|reason| EventLogError::Unsafe { reason })?;
        Ok(Self { connection })
    }

    /// What [`Admin::prepare`] and [`Admin::create_log`] would do, for the service's role of this name. Changes nothing.
    ///
    /// # Errors
    /// `Database`, `MigrationChanged`, `WrongSchema`: they would fail too.
    pub async fn missing(&mut self, service: &str) -> Result<Missing, EventLogError> {
        let failed = || EventLogError::database("looking what is missing");
        let mut reading = self.connection.begin_with("BEGIN READ ONLY").await.map_err(failed())?;
        let looked = sqlx::query(include_str!("sql/missing.sql")).bind(service).fetch_one(&mut *reading);
        let row = looked.await.map_err(failed())?;
        let is_there = |column| row.try_get::<bool, _>(column).map_err(failed());
        let migrations = migrations::missing(&mut reading, is_there("migrated")?).await?;
        let log = match is_there("prepared")? {
            true => sqlx::query_scalar("SELECT log_id FROM coldstream.log_head").fetch_optional(&mut *reading).await,
            false => Ok(None),
        };
        Ok(Missing { roles: row.try_get("roles").map_err(failed())?, migrations, log: log.map_err(failed())? })
    }

    /// Creates the roles and the schema, where they are missing, and applies the migrations that are. Returns the
    /// names of these. Can be repeated; an upgrade is done by this as well.
    ///
    /// # Errors
    /// `Database`, `MigrationChanged`, `WrongSchema`; nothing but roles is left then.
    pub async fn prepare(&mut self, login: &ServiceLogin) -> Result<Vec<&'static str>, EventLogError> {
        // Back from the owner, whom an earlier call may have left it as.
        let itself = sqlx::raw_sql("RESET ROLE").execute(&mut self.connection).await;
        itself.map_err(EventLogError::database("acting as the administrator"))?;
        let roles = sqlx::raw_sql(include_str!("sql/roles.sql")).execute(&mut self.connection).await;
        roles.map_err(EventLogError::database("creating the roles and the schema"))?;
        self.log_in(login).await.map_err(EventLogError::database("creating the service's role"))?;
        migrations::apply(self.as_owner().await?).await
    }

    /// The session, as whom it is: to look at what stands beside the log.
    pub fn session(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// The session, acting as the owner: for the migrations of the views, which stand beside the log.
    ///
    /// # Errors
    /// `Database`.
    pub async fn as_owner(&mut self) -> Result<&mut PgConnection, EventLogError> {
        let acting = sqlx::raw_sql("SET ROLE coldstream_owner").execute(&mut self.connection).await;
        acting.map_err(EventLogError::database("acting as the owner"))?;
        Ok(&mut self.connection)
    }

    /// Creates the login role, or gives it the password and the service's rights.
    async fn log_in(&mut self, login: &ServiceLogin) -> Result<(), sqlx::Error> {
        // What the server keeps of a password (RFC 5803), whatever its password_encryption is. It may log statements and
        // their parameters, and nobody can log in with this.
        let verifier = login.password.as_ref().map(|password| scram_sha_256(password.as_bytes()));
        // A utility statement takes no parameters: the server quotes them.
        let statements: Vec<String> = sqlx::query_scalar(include_str!("sql/service_role.sql"))
            .bind(&login.name)
            .bind(verifier)
            .fetch_all(&mut self.connection)
            .await?;
        for statement in statements {
            match self.claimed(&statement).await {
                // duplicate_object: it was there already, or another database's administrator was faster.
                Err(sqlx::Error::Database(error)) if matches!(error.code().as_deref(), Some("42710" | "23505")) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Runs a statement while nobody else prepares this database, as roles.sql does it.
    async fn claimed(&mut self, statement: &str) -> Result<(), sqlx::Error> {
        let mut transaction = self.connection.begin().await?;
        sqlx::raw_sql("SELECT pg_advisory_xact_lock(7106407)").execute(&mut *transaction).await?;
        sqlx::raw_sql(statement).execute(&mut *transaction).await?;
        transaction.commit().await
    }

    /// Creates the log, if there is none. Returns whether it was created now.
    ///
    /// # Errors
    /// `OtherLog` if a log of another name is there; `Database`.
    pub async fn create_log(&mut self, new: &NewLog) -> Result<bool, EventLogError> {
        let connection = self.as_owner().await?;
        let created = sqlx::query(include_str!("sql/create_log.sql"))
            .bind(&new.log_id)
            .bind(new.incarnation)
            .bind(new.epoch.as_i64())
            .bind(new.role.as_str())
            .bind(Instant(new.earliest))
            .bind(i32::try_from(new.window.months()).unwrap_or(i32::MAX))
            .bind(match new.copies {
                Copies::Two => 2_i16,
                Copies::OneAcceptedByOperator => 1,
            })
            .bind(new.simulated_now.map(Instant))
            .fetch_one(connection)
            .await
            .map_err(EventLogError::database("creating the log"))?;
        let read = EventLogError::database("creating the log");
        let (found, is_new): (String, bool) = match (created.try_get("log_id"), created.try_get("is_new")) {
            (Ok(found), Ok(is_new)) => (found, is_new),
            (Err(error), _) | (_, Err(error)) => return Err(read(error)),
        };
        if found == new.log_id { Ok(is_new) } else { Err(EventLogError::OtherLog { found }) }
    }
}
