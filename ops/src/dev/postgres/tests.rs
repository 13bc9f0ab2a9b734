//! A private cluster is durable, and never outlives its owner.

use std::io::BufRead as _;
use std::process::{Command, Stdio};

use sqlx::Row as _;

use super::*;

/// Set in a copy of this test binary that plays the owner who is killed.
const OWNER_VARIABLE: &str = "COLDSTREAM_TEST_PLAYS_OWNER";

async fn launch() -> PostgresCluster {
    PostgresCluster::launch(PostgresOptions::default()).await.unwrap()
}

async fn connect(cluster: &PostgresCluster) -> PgConnection {
    PgConnection::connect(&cluster.superuser_url("postgres")).await.unwrap()
}

async fn run(connection: &mut PgConnection, statement: &'static str) {
    sqlx::query(statement).execute(connection).await.unwrap();
}

async fn count(connection: &mut PgConnection) -> i64 {
    sqlx::query("SELECT count(*) FROM t").fetch_one(connection).await.unwrap().get(0)
}

/// The processes of the cluster on `data`: postgres names its data folder in the server's arguments, and every
/// backend is a child of the server.
fn all_processes(cluster: &PostgresCluster) -> Vec<Process> {
    let server = Process::open(Pid::from_raw(cluster.pid().unwrap().cast_signed()).unwrap()).unwrap();
    let mut all = server.children().unwrap();
    assert!(all.len() >= 4, "checkpointer, writer, walwriter, launcher: {all:?}");
    all.push(server);
    all
}

fn assert_all_end(processes: &[Process]) {
    for process in processes {
        assert!(process.wait_ended(KILL_LIMIT).unwrap(), "{process:?} is still running");
    }
}

#[tokio::test]
async fn committed_rows_survive_a_kill_and_uncommitted_ones_do_not() {
    let cluster = launch().await;
    let mut connection = connect(&cluster).await;
    run(&mut connection, "CREATE TABLE t (id bigint PRIMARY KEY)").await;
    run(&mut connection, "INSERT INTO t SELECT generate_series(1, 1000)").await;
    run(&mut connection, "BEGIN").await;
    run(&mut connection, "INSERT INTO t SELECT generate_series(2001, 3000)").await;

    let processes = all_processes(&cluster);
    let port = cluster.port();
    cluster.kill().await.unwrap();
    assert_all_end(&processes);
    assert_eq!(cluster.pid(), None);
    assert!(PgConnection::connect(&cluster.superuser_url("postgres")).await.is_err());

    cluster.start().await.unwrap();
    assert_eq!(cluster.port(), port);
    assert_eq!(count(&mut connect(&cluster).await).await, 1000);
    let log = std::fs::read_to_string(cluster.log_file()).unwrap();
    assert!(log.contains("automatic recovery in progress"), "a kill is a crash: {log}");
}

#[tokio::test]
async fn a_stopped_cluster_starts_again_without_recovery() {
    let cluster = launch().await;
    run(&mut connect(&cluster).await, "CREATE TABLE t (id bigint)").await;
    assert!(matches!(cluster.start().await, Err(PostgresError::Running)));
    cluster.stop().await.unwrap();
    cluster.stop().await.unwrap();
    cluster.start().await.unwrap();
    assert_eq!(count(&mut connect(&cluster).await).await, 0);
    let log = std::fs::read_to_string(cluster.log_file()).unwrap();
    assert!(!log.contains("automatic recovery"), "a stop is no crash: {log}");
}

#[tokio::test]
async fn nothing_is_left_after_drop() {
    let cluster = launch().await;
    let (processes, folder) = (all_processes(&cluster), cluster.data_folder().parent().unwrap().to_owned());
    assert!(folder.exists());
    drop(cluster);
    assert_all_end(&processes);
    assert!(!folder.exists());
}

#[tokio::test]
async fn a_killed_cluster_is_removed_too() {
    let cluster = launch().await;
    let folder = cluster.data_folder().parent().unwrap().to_owned();
    let lock_file = std::fs::read_to_string(cluster.data_folder().join("postmaster.pid")).unwrap();
    let segment = lock_file.lines().nth(6).unwrap().split_whitespace().last().unwrap().to_owned();
    cluster.kill().await.unwrap();
    cluster.end().await.unwrap();
    assert!(!folder.exists());
    let segments = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    assert!(!segments.lines().any(|line| line.split_whitespace().nth(1) == Some(&segment)), "{segments}");
}

#[tokio::test]
async fn kept_data_is_opened_again_by_the_next_owner() {
    let home =
        tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o711)).tempdir().unwrap();
    let options = PostgresOptions { keep_in: Some(home.path().join("kept")), ..PostgresOptions::default() };
    let cluster = PostgresCluster::launch(options.clone()).await.unwrap();
    cluster.create_database("things").await.unwrap();
    cluster.create_database("things").await.unwrap();
    cluster.end().await.unwrap();

    let again = PostgresCluster::launch(options).await.unwrap();
    PgConnection::connect(&again.superuser_url("things")).await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let options = PostgresOptions { port: Some(port), ..PostgresOptions::default() };
    let error = PostgresCluster::launch(options).await.unwrap_err();
    assert!(matches!(error, PostgresError::PortTaken { port: named } if named == port), "{error}");
}

#[tokio::test]
async fn the_cluster_ends_when_its_owner_is_killed() {
    let name = "dev::postgres::tests::plays_the_owner_who_is_killed";
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(OWNER_VARIABLE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = std::io::BufReader::new(owner.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .find_map(|line| Some(line.split_once("cluster: ")?.1.to_owned()))
        .unwrap();
    let (pid, folder) = said.split_once(' ').unwrap();
    let server = Process::open(Pid::from_raw(pid.parse().unwrap()).unwrap()).unwrap();
    let mut processes = server.children().unwrap();
    processes.push(server);

    owner.kill().unwrap();
    owner.wait().unwrap();
    assert_all_end(&processes);
    // The guardian removes the folder last; nothing of ours holds it, so the look is repeated.
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    for _ in 0..500 {
        tick.tick().await;
        if !Path::new(folder).exists() {
            return;
        }
    }
    panic!("{folder} is still there");
}

/// Not a test of its own: the owner in the test above.
#[tokio::test]
async fn plays_the_owner_who_is_killed() {
    if std::env::var_os(OWNER_VARIABLE).is_none() {
        return;
    }
    let cluster = launch().await;
    println!("cluster: {} {}", cluster.pid().unwrap(), cluster.data_folder().parent().unwrap().display());
    std::future::pending::<()>().await;
}
