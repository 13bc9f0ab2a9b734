//! LOG-1 where a server ends in good order, and where its database takes no writes for a while: what was accepted is
//! answered, what was not is refused, and nothing has to be started again but what was ended.

mod log_common;

use std::collections::HashSet;

use log_common::{Database, is_sound};
use ops::dev::process::Server;
use ops::dev::region::Region;
use sqlx::{Connection, Executor, PgConnection};
use system_tests::torture::{Answer, Client, Place, Request, plan, served};
use tokio::sync::watch;

/// What one client was told until the server was gone.
#[derive(Default)]
struct Told {
    acknowledged: Vec<Place>,
    /// 503: it was shutting down.
    refused: HashSet<String>,
    /// No connection, or one that ended without a word: it was never accepted.
    unheard: HashSet<String>,
}

/// Appends without a pause and never twice, until the server cannot be reached.
async fn append_until_gone(client: Client, url: String, name: usize, answered: watch::Sender<u64>) -> Told {
    let mut told = Told::default();
    for number in 0.. {
        let ids: Vec<String> = (0..3).map(|index| format!("{name}:{number}:{index}")).collect();
        let request = Request::batch("/shutdown", &format!("thing-{name}"), "any", ids.clone(), 2000);
        match client.send(&url, &request).await {
            Answer::Stored { replayed, places } => {
                assert!(!replayed);
                told.acknowledged.extend(places);
                answered.send_modify(|count| *count += 1);
            }
            Answer::Problem(status, problem) => {
                assert_eq!((status, problem["kind"].as_str()), (503, Some("unavailable")), "{problem}");
                told.refused.extend(ids);
            }
            Answer::None(error) => {
                told.unheard.extend(ids);
                if error.contains("ConnectionRefused") {
                    return told;
                }
            }
        }
    }
    told
}

/// A server told to end; its exit code.
async fn end(server: &mut Region) -> Option<i32> {
    server.stop_server().await.expect("it ends")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_told_to_end_answers_what_it_accepted_and_refuses_the_rest() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut region = Region::single(&plan(folder.path(), None)).await.expect("a region");
    let client = Client::new(&region.tokens.appender);
    let (mut acknowledged, mut not_stored) = (Vec::new(), HashSet::new());
    for round in 0..4 {
        region.serve().await.expect("it serves");
        let (answered, mut answers) = watch::channel(0);
        let writers: Vec<_> = (0..16)
            .map(|writer| {
                let (client, url) = (Client::new(&region.tokens.appender), region.url.clone());
                tokio::spawn(append_until_gone(client, url, round * 16 + writer, answered.clone()))
            })
            .collect();
        answers.wait_for(|answered| *answered > 40).await.expect("the writers are at work");
        assert_eq!(end(&mut region).await, Some(0));
        for writer in writers {
            let told = writer.await.expect("no panic");
            acknowledged.extend(told.acknowledged);
            not_stored.extend(told.refused);
            not_stored.extend(told.unheard);
        }
    }
    region.serve().await.expect("it serves again");
    let stored = served(&client, &region.url).await;
    for place in &acknowledged {
        assert_eq!(stored[&place.id].2, place.position, "LOG-1: {} was acknowledged", place.id);
    }
    let doubtful: Vec<&String> = stored.keys().filter(|id| not_stored.contains(*id)).collect();
    assert!(doubtful.is_empty(), "stored, and its writer was not told so: {doubtful:?}");
    assert_eq!(stored.len(), acknowledged.len(), "the log is what was acknowledged");
    println!("{} events stored, {} refused or unheard", stored.len(), not_stored.len());
    region.end().await.expect("it ends");
}

/// Lets the database behave so for everybody, also for the sessions that there are, and back again.
async fn set(admin: &mut PgConnection, statement: &str) {
    admin.execute(statement).await.expect("set");
    admin.execute("SELECT pg_reload_conf()").await.expect("reloaded");
}

async fn append_once(client: &Client, url: &str, id: &str) -> Answer {
    client.send(url, &Request::single("/shutdown", "thing-1", id)).await
}

/// Sends one request until it is stored; until then it may be refused with 503, and then it was not.
async fn until_stored(client: &Client, url: &str, id: &str) -> Place {
    let mut pace = tokio::time::interval(std::time::Duration::from_millis(20));
    loop {
        pace.tick().await;
        match append_once(client, url, id).await {
            Answer::Stored { replayed, places } => {
                assert!(!replayed, "it was said not to be stored");
                return places[0].clone();
            }
            Answer::Problem(503, _) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Sends new requests until the database refuses, and gives the refused id and the reason. Those before are stored; one of
/// them may be open, if it was sent on the session that has just died: then nobody can know while the database is away.
async fn until_refused(client: &Client, url: &str, name: &str) -> (String, String) {
    let mut pace = tokio::time::interval(std::time::Duration::from_millis(20));
    let mut open = 0;
    for number in 0.. {
        pace.tick().await;
        let id = format!("{name}-{number}");
        match append_once(client, url, &id).await {
            Answer::Stored { .. } => {}
            Answer::Problem(504, problem) if problem["kind"] == "indeterminate" && open == 0 => open += 1,
            Answer::Problem(status, problem) => {
                assert_eq!((status, problem["kind"].as_str()), (503, Some("unavailable")), "{problem}");
                return (id, problem["detail"].as_str().expect("a reason").to_owned());
            }
            Answer::None(error) => panic!("{error}"),
        }
    }
    unreachable!("numbers do not end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_takes_no_writes_makes_appends_unavailable_with_the_reason_and_no_longer_than_that() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut region = Region::single(&plan(folder.path(), None)).await.expect("a region");
    region.serve().await.expect("it serves");
    let (client, url) = (Client::new(&region.tokens.appender), region.url.clone());
    let pid = region.server().map(|server: &mut Server| server.pid());
    let mut admin = PgConnection::connect(&region.superuser_url()).await.expect("connected");
    until_stored(&client, &url, "before").await;

    // As managed databases do when their disk is nearly full.
    set(&mut admin, "ALTER SYSTEM SET default_transaction_read_only = on").await;
    let (id, reason) = until_refused(&client, &url, "read-only").await;
    assert!(reason.contains("read-only transaction"), "{reason}");
    assert!(served(&client, &url).await.contains_key("before"), "reads go on");
    set(&mut admin, "ALTER SYSTEM RESET default_transaction_read_only").await;
    until_stored(&client, &url, &id).await;

    // A disk that is full, as PostgreSQL says it.
    let full = "CREATE FUNCTION public.disk_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
        END $$;
        CREATE TRIGGER disk_full BEFORE INSERT ON coldstream.event_ids EXECUTE FUNCTION public.disk_full()";
    admin.execute(full).await.expect("made");
    let (id, reason) = until_refused(&client, &url, "full").await;
    assert!(reason.contains("No space left on device"), "{reason}");
    admin.execute("DROP TRIGGER disk_full ON coldstream.event_ids").await.expect("dropped");
    until_stored(&client, &url, &id).await;

    assert_eq!(region.server().map(|server| server.pid()), pid, "nobody started it again");
    let (database_url, admin_url) = (region.database_url(), region.superuser_url());
    is_sound(&Database { name: "coldstream".into(), url: database_url, admin_url }).await;
    region.end().await.expect("it ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_waits_for_its_database_to_come_back_and_ends_in_good_order_without_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut region = Region::single(&plan(folder.path(), None)).await.expect("a region");
    region.serve().await.expect("it serves");
    let (client, url) = (Client::new(&region.tokens.appender), region.url.clone());
    until_stored(&client, &url, "before").await;
    region.cluster.stop().await.expect("stopped");
    let (id, _) = until_refused(&client, &url, "down").await;
    region.cluster.start().await.expect("started");
    until_stored(&client, &url, &id).await;
    region.cluster.stop().await.expect("stopped");
    assert_eq!(end(&mut region).await, Some(0));
    region.end().await.expect("it ends");
}
