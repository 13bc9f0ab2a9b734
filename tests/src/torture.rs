//! Writers that append over HTTP while servers and databases die under them, and the judge of what is left.
//!
//! A writer that gets no answer sends the same ids again until it has one, as a client must. So when all writers have
//! stopped there is no open question: what was acknowledged is in the log, exactly once, where it was said to stand;
//! what was refused is not; and there is nothing else. The judge reads what is served, not what a test remembers.

mod calls;
mod judge;
mod request;
mod victim;
mod writer;

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use domain::Timestamp;
use domain::window::LiveWindow;
use ops::dev::process::Server;
use ops::dev::region::{Plan, Region};

use crate::binary;

pub use calls::Calls;
pub use judge::{Stored, served};
pub use request::{Answer, Client, Place, Request};
pub use victim::{ALONE, TOGETHER, Victim};
pub use writer::{Journal, Writers};

/// A plan for regions in `folder`, with simulated time from `now` on if that is given.
#[must_use]
pub fn plan(folder: &Path, now: Option<Timestamp>) -> Plan {
    // Every process has one; clients of this process need it as well. Another test thread may have been faster.
    drop(rustls::crypto::ring::default_provider().install_default());
    let window = LiveWindow::default();
    Plan {
        binary: binary(),
        folder: folder.to_owned(),
        simulated_now: now,
        window,
        settings: Vec::new(),
        postgres: Vec::new(),
    }
}

/// A further process of a region's log, beside the region's own.
pub struct Second {
    /// URL of its API.
    pub url: String,
    config: PathBuf,
    server: Option<Server>,
}

impl Second {
    /// Starts it, with a configuration of its own that differs in what two processes cannot share.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(region: &Region) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        drop(listener);
        let text = std::fs::read_to_string(&region.config).expect("the region has a configuration");
        let mut config: toml::Table = text.parse().expect("it is TOML");
        config["http"].as_table_mut().expect("a section").insert("bind".into(), address.clone().into());
        let file = region.config.with_file_name("second.toml");
        std::fs::write(&file, config.to_string()).expect("written");
        let mut second = Self { url: format!("http://{address}"), config: file, server: None };
        second.serve().await;
        second
    }

    /// Starts it again.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn serve(&mut self) {
        let log = self.config.with_file_name("second.log");
        let server = Server::start(&binary(), &self.config, &log, &self.url, &[]).await;
        self.server = Some(server.expect("the second process starts"));
    }

    /// The running process.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("it was started")
    }

    /// SIGKILL; returns when it is gone.
    ///
    /// # Panics
    /// If it does not go.
    pub async fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            server.kill().await.expect("killed");
        }
    }

    /// SIGTERM; gives its exit code. It may be started again.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn end(&mut self) -> Option<i32> {
        let server = self.server.take().expect("it was started");
        server.stop().await.expect("it ends")
    }

    /// The same, for good.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn stop(mut self) -> Option<i32> {
        self.end().await
    }
}
