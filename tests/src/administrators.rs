//! Another administrator of a database who is slow: what waits for him waits for longer than a driver takes for usual.

use sqlx::{Connection, Executor, PgConnection};

/// Whether a session waits to change a role.
const WAITS: &str =
    "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%ALTER ROLE%')";

/// Lets `act` go on while somebody else is changing `role`, and goes on with that for more than a second after `act` has
/// begun to wait for it.
///
/// # Panics
/// If it does not wait for that, or the database at `url` does not answer.
pub async fn slowed<T>(url: &str, role: &str, act: impl Future<Output = T>) -> T {
    let connect = async || PgConnection::connect(url).await.expect("connected");
    let (mut changing, mut looking) = (connect().await, connect().await);
    changing.execute(format!("BEGIN; ALTER ROLE {role} CONNECTION LIMIT -1").as_str()).await.expect("changing");
    let slow = async {
        while !sqlx::query_scalar::<_, bool>(WAITS).fetch_one(&mut looking).await.expect("looked") {}
        changing.execute("SELECT pg_sleep(1.2); ROLLBACK").await.expect("taken back");
    };
    tokio::pin!(act);
    tokio::select! {
        _ = &mut act => panic!("it was done without changing {role}"),
        () = slow => act.await,
    }
}
