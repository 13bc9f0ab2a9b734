//! Who dies under the writers, and how they come back.

use ops::dev::region::Region;

use super::Second;

/// Who dies in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The region's server.
    Server,
    /// The further process on the same log.
    Second,
    /// PostgreSQL.
    Database,
    /// Both, the server first.
    ServerThenDatabase,
    /// Both, PostgreSQL first.
    DatabaseThenServer,
}

/// Whom one process fears.
pub const ALONE: &[Victim] =
    &[Victim::Server, Victim::Database, Victim::ServerThenDatabase, Victim::DatabaseThenServer];
/// Whom one of two processes fears.
pub const TOGETHER: &[Victim] = &[Victim::Server, Victim::Second, Victim::Database];

impl Victim {
    /// Dies by SIGKILL, and is started again.
    ///
    /// # Panics
    /// If it does not die, or does not start.
    pub async fn dies(self, region: &mut Region, second: Option<&mut Second>) {
        match (self, second) {
            (Self::Server, _) => {
                region.kill_server().await.expect("killed");
                region.serve().await.expect("it starts again");
            }
            (Self::Second, Some(second)) => {
                second.kill().await;
                second.serve().await;
            }
            (Self::Second, None) => panic!("there is no second process"),
            (Self::Database, _) => {
                region.cluster.kill().await.expect("killed");
                region.cluster.start().await.expect("it starts again");
            }
            (Self::ServerThenDatabase, _) => {
                region.kill_server().await.expect("killed");
                region.cluster.kill().await.expect("killed");
                region.cluster.start().await.expect("it starts again");
                region.serve().await.expect("it starts again");
            }
            (Self::DatabaseThenServer, _) => {
                region.cluster.kill().await.expect("killed");
                region.kill_server().await.expect("killed");
                region.cluster.start().await.expect("it starts again");
                region.serve().await.expect("it starts again");
            }
        }
    }
}
