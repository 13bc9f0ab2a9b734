//! A whole region on this machine, for the demo and the end-to-end tests: its own PostgreSQL cluster, its own S3
//! endpoint, its own process of the real binary. What dies in a test here really dies. Nothing outlives its owner.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use domain::append::Role;
use domain::archive::catalog::Copies;
use domain::keys::SigningKey;
use domain::merkle::Hash;
use domain::window::LiveWindow;
use domain::{Epoch, Timestamp};
use event_log::{Admin, EventLogError, NewLog, PgConfig, PgLog, ServiceLogin, TokenLimits};
use thiserror::Error;
use toml::{Table, Value};
use uuid::Uuid;

use super::object_server::{Credentials, ObjectServer, ObjectServerError};
use super::postgres::{PostgresCluster, PostgresError, PostgresOptions};
use super::process::{Server, ServerError};
use crate::chance;
use crate::clock::SystemClock;
use crate::http::auth::{TokenHash, TokenRole, new_token};

/// The bucket of every region; they are on different endpoints.
pub const BUCKET: &str = "archive";
pub(crate) const DATABASE: &str = "coldstream";
pub(crate) const SERVICE: &str = "coldstream";

/// Why a region was not set up.
#[derive(Debug, Error)]
pub enum RegionError {
    /// PostgreSQL.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The S3 endpoint.
    #[error(transparent)]
    Objects(#[from] ObjectServerError),
    /// The log.
    #[error("the log was not created")]
    Log(#[from] EventLogError),
    /// The views.
    #[error("the views were not created")]
    Views(#[from] projections::ProjectionError),
    /// The server's process.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A file or a port.
    #[error("{doing} failed")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> RegionError {
    move |source| RegionError::Io { doing, source }
}

/// What a set of regions is to be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The binary `coldstream`.
    pub binary: PathBuf,
    /// Folder for everything but the databases; it must exist.
    pub folder: PathBuf,
    /// Now, if time is to be simulated.
    pub simulated_now: Option<Timestamp>,
    /// The live window.
    pub window: LiveWindow,
    /// Settings over those that are needed, such as `archive.sealing.segment_bytes`.
    pub settings: Vec<(&'static str, Value)>,
    /// Parameters of its PostgreSQL over the built-in ones.
    pub postgres: Vec<(String, String)>,
}

/// The tokens of a region, one a role.
#[derive(Debug, Clone)]
pub struct RegionTokens {
    /// Appends, and reads what it appends to.
    pub appender: String,
    /// Reads.
    pub reader: String,
    /// Operates.
    pub operator: String,
    /// Reads everything.
    pub auditor: String,
    /// Is the other region.
    pub replicator: String,
}

/// A region on this machine.
pub struct Region {
    /// Its name and its key's.
    pub name: &'static str,
    /// URL of its API.
    pub url: String,
    /// Its tokens.
    pub tokens: RegionTokens,
    /// Its configuration, for commands.
    pub config: PathBuf,
    /// Its public key (C2SP vkey).
    pub public_key: String,
    /// Its database.
    pub cluster: PostgresCluster,
    plan: Plan,
    folder: PathBuf,
    objects: Option<ObjectServer>,
    objects_at: SocketAddr,
    server: Option<Server>,
}

/// What a region needs to know of itself and the other one before its configuration can be written.
struct Prepared {
    name: &'static str,
    folder: PathBuf,
    cluster: PostgresCluster,
    objects: ObjectServer,
    api: SocketAddr,
    key: SigningKey,
    tokens: RegionTokens,
}

impl Region {
    /// A single region, active, whose pruning needs one copy only. Its server is not started.
    ///
    /// # Errors
    /// A [`RegionError`].
    pub async fn single(plan: &Plan) -> Result<Self, RegionError> {
        let home = prepare(plan, "home", Role::Active, Copies::OneAcceptedByOperator).await?;
        let config = configuration(plan, &home, None);
        Self::set_up(plan, home, config)
    }

    /// Two regions of one log: `home` is active, `dr` follows. Their servers are not started.
    ///
    /// # Errors
    /// A [`RegionError`].
    pub async fn pair(plan: &Plan) -> Result<(Self, Self), RegionError> {
        let (home, dr) = futures::try_join!(
            prepare(plan, "home", Role::Active, Copies::Two),
            prepare(plan, "dr", Role::Follower, Copies::Two)
        )?;
        for (own, peer) in [(&home, &dr), (&dr, &home)] {
            let file = own.folder.join("peer-token");
            std::fs::write(file, &peer.tokens.replicator).map_err(io("writing the other region's token"))?;
        }
        let (home_config, dr_config) = (configuration(plan, &home, Some(&dr)), configuration(plan, &dr, Some(&home)));
        Ok((Self::set_up(plan, home, home_config)?, Self::set_up(plan, dr, dr_config)?))
    }

    fn set_up(plan: &Plan, prepared: Prepared, config: Table) -> Result<Self, RegionError> {
        let file = prepared.folder.join("coldstream.toml");
        std::fs::write(&file, config.to_string()).map_err(io("writing the configuration"))?;
        Ok(Self {
            name: prepared.name,
            url: format!("http://{}", prepared.api),
            tokens: prepared.tokens,
            config: file,
            public_key: prepared.key.verify_key().to_string(),
            cluster: prepared.cluster,
            plan: plan.clone(),
            folder: prepared.folder,
            objects_at: prepared.objects.address(),
            objects: Some(prepared.objects),
            server: None,
        })
    }

    /// Starts the server's process and waits until it is ready.
    ///
    /// # Errors
    /// `Server` if it ends before, with what it last said.
    pub async fn serve(&mut self) -> Result<(), RegionError> {
        self.serve_with(&[]).await
    }

    /// The same, with variables in its environment.
    ///
    /// # Errors
    /// As [`Region::serve`].
    pub async fn serve_with(&mut self, environment: &[(&str, &str)]) -> Result<(), RegionError> {
        let log = self.server_log();
        self.server = Some(Server::start(&self.plan.binary, &self.config, &log, &self.url, environment).await?);
        Ok(())
    }

    /// The running server.
    #[must_use]
    pub fn server(&mut self) -> Option<&mut Server> {
        self.server.as_mut()
    }

    /// What the server's process writes to stderr.
    #[must_use]
    pub fn server_log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    /// SIGKILL to the server; returns when it is gone.
    ///
    /// # Errors
    /// `Server`.
    pub async fn kill_server(&mut self) -> Result<(), RegionError> {
        match self.server.take() {
            Some(server) => Ok(server.kill().await?),
            None => Ok(()),
        }
    }

    /// SIGTERM to the server; returns when it has ended, with its exit code.
    ///
    /// # Errors
    /// `Server`.
    pub async fn stop_server(&mut self) -> Result<Option<i32>, RegionError> {
        match self.server.take() {
            Some(server) => Ok(server.stop().await?),
            None => Ok(None),
        }
    }

    /// The whole region dies at once: server, database and object storage, without a word.
    ///
    /// # Errors
    /// If something of it cannot be killed.
    pub async fn kill(&mut self) -> Result<(), RegionError> {
        let objects = self.objects.take();
        let server = self.server.take();
        let kill_server = async {
            if let Some(server) = server {
                server.kill().await?;
            }
            Ok::<_, RegionError>(())
        };
        let kill_database = async { Ok::<_, RegionError>(self.cluster.kill().await?) };
        futures::try_join!(kill_server, kill_database)?;
        if let Some(objects) = objects {
            objects.kill().await;
        }
        Ok(())
    }

    /// Starts database and object storage again after [`Region::kill`]; the server is not started.
    ///
    /// # Errors
    /// A [`RegionError`].
    pub async fn revive(&mut self) -> Result<(), RegionError> {
        self.cluster.start().await?;
        if self.objects.is_none() {
            let objects = ObjectServer::start(&self.objects_folder(), credentials(self.name), self.objects_at).await?;
            self.objects = Some(objects);
        }
        Ok(())
    }

    /// Folder that the S3 endpoint serves.
    #[must_use]
    pub fn objects_folder(&self) -> PathBuf {
        self.folder.join("objects")
    }

    /// The file that holds the bytes of an object, to damage it behind the store's back.
    #[must_use]
    pub fn object_file(&self, key: &str) -> PathBuf {
        super::object_server::object_path(&self.objects_folder(), BUCKET, key)
    }

    /// URL of the database for the service's role.
    #[must_use]
    pub fn database_url(&self) -> String {
        self.cluster.url(SERVICE, DATABASE)
    }

    /// URL of the database for its superuser.
    #[must_use]
    pub fn superuser_url(&self) -> String {
        self.cluster.superuser_url(DATABASE)
    }

    /// Ends everything that runs, in order.
    ///
    /// # Errors
    /// If something of it cannot be ended.
    pub async fn end(mut self) -> Result<(), RegionError> {
        self.stop_server().await?;
        if let Some(objects) = self.objects.take() {
            objects.stop().await;
        }
        Ok(self.cluster.end().await?)
    }
}

async fn prepare(plan: &Plan, name: &'static str, role: Role, copies: Copies) -> Result<Prepared, RegionError> {
    let folder = plan.folder.join(name);
    let objects_root = folder.join("objects");
    std::fs::create_dir_all(objects_root.join(BUCKET)).map_err(io("making the bucket"))?;
    let settings = plan.postgres.clone();
    let cluster = PostgresCluster::launch(PostgresOptions { settings, ..PostgresOptions::default() }).await?;
    cluster.create_database(DATABASE).await?;
    create_log(plan, &cluster, role, copies).await?;
    let tokens = create_tokens(&cluster.url(SERVICE, DATABASE)).await?;
    let key = SigningKey::from_seed(name, &chance::random()).expect("home and dr are names that a key can have");
    std::fs::write(folder.join("key"), key.to_secret_text()).map_err(io("writing the key"))?;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let objects = ObjectServer::start(&objects_root, credentials(name), any).await?;
    let api = TcpListener::bind(any).and_then(|listener| listener.local_addr()).map_err(io("finding a free port"))?;
    Ok(Prepared { name, folder, cluster, objects, api, key, tokens })
}

async fn create_log(plan: &Plan, cluster: &PostgresCluster, role: Role, copies: Copies) -> Result<(), RegionError> {
    let mut admin = Admin::connect(&cluster.superuser_url(DATABASE)).await?;
    admin.prepare(&ServiceLogin { name: SERVICE.into(), password: None }).await?;
    projections::migrate(admin.as_owner().await?).await?;
    let earliest = Timestamp::parse_rfc3339("0001-01-01T00:00:00Z").expect("the first instant there is");
    let new = NewLog {
        log_id: "development".into(),
        incarnation: Uuid::from_bytes(chance::random()),
        role,
        epoch: Epoch::FIRST,
        earliest,
        window: plan.window,
        copies,
        simulated_now: plan.simulated_now,
    };
    admin.create_log(&new).await?;
    Ok(())
}

async fn create_tokens(url: &str) -> Result<RegionTokens, RegionError> {
    let log = PgLog::connect(PgConfig::at(url), std::sync::Arc::new(SystemClock)).await?;
    let mut tokens = Vec::new();
    for role in TokenRole::ALL {
        let token = new_token();
        let hash = Hash(TokenHash::of(&token).0);
        log.create_token(role.as_str(), &hash, role.as_str(), &TokenLimits::default()).await?;
        tokens.push(token);
    }
    log.shut_down().await;
    // In the order of `TokenRole::ALL`.
    let [appender, reader, operator, auditor, replicator] = tokens.try_into().expect("one a role");
    Ok(RegionTokens { appender, reader, operator, auditor, replicator })
}

fn credentials(name: &str) -> Credentials {
    Credentials { access_key: format!("{name}-access"), secret_key: format!("{name}-secret") }
}

fn store(region: &Prepared) -> Table {
    let Credentials { access_key, secret_key } = credentials(region.name);
    let mut store = Table::new();
    store.insert("endpoint".into(), region.objects.endpoint().into());
    store.insert("bucket".into(), BUCKET.into());
    store.insert("path_style".into(), true.into());
    store.insert("access_key_id".into(), access_key.into());
    store.insert("secret_access_key".into(), secret_key.into());
    // A dead region's endpoint refuses at once; a slow one need not be waited for on this machine.
    store.insert("connect_timeout_seconds".into(), 1.into());
    store.insert("attempts".into(), 3.into());
    store
}

fn configuration(plan: &Plan, own: &Prepared, peer: Option<&Prepared>) -> Table {
    let mut config = Table::new();
    let path = |file: &Path| Value::from(file.display().to_string());
    let mut keys = vec![Value::from(own.key.verify_key().to_string())];
    set(&mut config, "region.name", own.name.into());
    set(&mut config, "region.signing_key_file", path(&own.folder.join("key")));
    set(&mut config, "log.url", own.cluster.url(SERVICE, DATABASE).into());
    set(&mut config, "window.months", i64::from(plan.window.months()).into());
    set(&mut config, "archive.store", store(own).into());
    set(&mut config, "archive.interval_seconds", 1.into());
    set(&mut config, "http.bind", own.api.to_string().into());
    match peer {
        None => set(&mut config, "archive.copies", "one-accepted-by-operator".into()),
        Some(peer) => {
            let token_file = own.folder.join("peer-token");
            keys.push(peer.key.verify_key().to_string().into());
            set(&mut config, "archive.peer_store", store(peer).into());
            set(&mut config, "replication.peer_url", format!("http://{}", peer.api).into());
            set(&mut config, "replication.token_file", path(&token_file));
            set(&mut config, "replication.interval_seconds", 1.into());
        }
    }
    set(&mut config, "region.public_keys", keys.into());
    for (name, value) in &plan.settings {
        set(&mut config, name, value.clone());
    }
    config
}

/// Sets `section.section.setting`, making the sections.
pub(crate) fn set(config: &mut Table, name: &str, value: Value) {
    let mut parts: Vec<&str> = name.split('.').collect();
    let setting = parts.pop().unwrap_or(name);
    let mut table = config;
    for part in parts {
        let section = table.entry(part).or_insert_with(|| Table::new().into());
        table = section.as_table_mut().expect("a section of a configuration is a table");
    }
    table.insert(setting.into(), value);
}
