//! What the peers stand on: one private PostgreSQL cluster with fsync on, a fresh database a measurement, and folders
//! on the same disk. It must never let one measurement pay for the pages that another left dirty.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use domain::append::Role;
use domain::archive::catalog::Copies;
use domain::window::LiveWindow;
use domain::{Epoch, Timestamp};
use event_log::{Admin, NewLog, ServiceLogin};
use ops::dev::postgres::{PostgresCluster, PostgresOptions, for_measurements};
use sqlx::{Connection, Executor, PgConnection};
use tempfile::TempDir;
use uuid::Uuid;

use crate::error::{BenchError, io, rig};

/// The role that Coldstream's library logs in as.
const SERVICE: &str = "coldstream_app";
/// More than the default of 100, for pgbench's 256 clients; it changes nothing about what is durable.
const CONNECTIONS_MAX: &str = "300";

/// The cluster, the disk and the programs.
pub(crate) struct Rig {
    cluster: PostgresCluster,
    folder: TempDir,
    /// The binary `coldstream`.
    pub(crate) coldstream: PathBuf,
    /// The binary `umadb`.
    pub(crate) umadb: PathBuf,
    made: AtomicU32,
}

/// A database that holds one measurement.
pub(crate) struct Database {
    /// Its name in the cluster.
    pub(crate) name: String,
    /// As the superuser.
    pub(crate) url: String,
}

impl Rig {
    /// Starts the cluster; data lies in the system's folder for temporary files.
    ///
    /// # Errors
    /// `Rig`, `Io`.
    pub(crate) async fn start(coldstream: PathBuf, umadb: PathBuf) -> Result<Self, BenchError> {
        let mut settings = for_measurements();
        settings.push(("max_connections".to_owned(), CONNECTIONS_MAX.to_owned()));
        let options = PostgresOptions { settings, ..PostgresOptions::default() };
        let cluster = PostgresCluster::launch(options).await.map_err(rig("starting PostgreSQL"))?;
        let folder = tempfile::tempdir().map_err(io("making a folder"))?;
        Ok(Self { cluster, folder, coldstream, umadb, made: AtomicU32::new(0) })
    }

    /// An empty database, with nothing left to be written for those before it.
    ///
    /// # Errors
    /// `Rig`.
    pub(crate) async fn database(&self) -> Result<Database, BenchError> {
        let name = format!("bench_{}", self.made.fetch_add(1, Ordering::Relaxed));
        self.cluster.create_database(&name).await.map_err(rig("making a database"))?;
        self.checkpoint().await?;
        Ok(Database { url: self.cluster.superuser_url(&name), name })
    }

    /// A database with an empty log of ours in it.
    ///
    /// # Errors
    /// `Rig`.
    #[expect(clippy::disallowed_methods, reason = "the benchmark is a composition root: it makes its own ids")]
    pub(crate) async fn log(&self) -> Result<(Database, String), BenchError> {
        let database = self.database().await?;
        let mut admin = Admin::connect(&database.url).await.map_err(rig("preparing the log's database"))?;
        let login = ServiceLogin { name: SERVICE.into(), password: None };
        admin.prepare(&login).await.map_err(rig("preparing the log's database"))?;
        let new = NewLog {
            log_id: "benchmark".into(),
            incarnation: Uuid::new_v4(),
            role: Role::Active,
            epoch: Epoch::FIRST,
            earliest: Timestamp::parse_rfc3339("0001-01-01T00:00:00Z").expect("the first instant there is"),
            window: LiveWindow::default(),
            copies: Copies::Two,
            simulated_now: None,
        };
        admin.create_log(&new).await.map_err(rig("creating the log"))?;
        self.checkpoint().await?;
        let url = self.cluster.url(SERVICE, &database.name);
        Ok((database, url))
    }

    /// Drops a database, which nobody uses any more.
    ///
    /// # Errors
    /// `Rig`.
    pub(crate) async fn drop_database(&self, database: &Database) -> Result<(), BenchError> {
        let drop = format!("DROP DATABASE {} WITH (FORCE)", database.name);
        self.as_superuser(&drop).await
    }

    async fn checkpoint(&self) -> Result<(), BenchError> {
        self.as_superuser("CHECKPOINT").await
    }

    async fn as_superuser(&self, statement: &str) -> Result<(), BenchError> {
        let url = self.cluster.superuser_url("postgres");
        let mut connection = PgConnection::connect(&url).await.map_err(rig("connecting as superuser"))?;
        connection.execute(statement).await.map_err(rig("tidying the cluster"))?;
        connection.close().await.map_err(rig("tidying the cluster"))
    }

    /// The server's process; its backends are its children.
    pub(crate) fn postgres(&self) -> Vec<u32> {
        self.cluster.pid().into_iter().collect()
    }

    /// One of PostgreSQL's own programs, of the server's version.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.cluster.program(name)
    }

    /// A new folder on the disk of the measurements, gone with what is given.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn scratch(&self) -> Result<TempDir, BenchError> {
        tempfile::tempdir_in(self.folder()).map_err(io("making a folder"))
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends the cluster.
    ///
    /// # Errors
    /// `Rig`.
    pub(crate) async fn end(self) -> Result<(), BenchError> {
        self.cluster.end().await.map_err(rig("ending PostgreSQL"))
    }
}
