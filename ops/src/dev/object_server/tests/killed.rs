//! A server that is killed in the middle of its work has lost nothing that it acknowledged.

use super::*;

/// Set in a copy of this test binary that plays the server that is killed; names the folder.
const SERVER_VARIABLE: &str = "COLDSTREAM_TEST_PLAYS_OBJECT_SERVER";

/// What writer `writer` stores in its round `round`: longer than one write, and telling.
fn stored(writer: usize, round: usize) -> Vec<u8> {
    let mut bytes = format!("writer {writer} round {round} ").into_bytes();
    bytes.resize(50_000 + 1_000 * writer, u8::try_from(round % 251).unwrap());
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_a_killed_server_and_nothing_is_half_there() {
    use std::io::BufRead as _;
    let folder = tempfile::tempdir().unwrap();
    let name = "dev::object_server::tests::killed::plays_the_server_that_is_killed";
    let mut process = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(SERVER_VARIABLE, folder.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
    let address =
        { lines }.find_map(|line| Some(line.split_once("address: ")?.1.parse::<SocketAddr>().unwrap())).unwrap();
    let client = client_at(&format!("http://{address}"), &credentials());
    client.create_bucket().bucket(BUCKET).send().await.unwrap();

    // Each writer puts new objects and replaces one of its own, until the server is gone.
    let progress = Arc::new(tokio::sync::Semaphore::new(0));
    let writers = (0..4).map(|writer| {
        let (client, progress) = (client.clone(), Arc::clone(&progress));
        tokio::spawn(async move {
            for round in 0.. {
                for key in [format!("new/{writer}/{round}"), format!("replaced/{writer}")] {
                    let put = client.put_object().bucket(BUCKET).key(key).body(ByteStream::from(stored(writer, round)));
                    if put.send().await.is_err() {
                        return round;
                    }
                }
                progress.add_permits(1);
            }
            unreachable!("a writer ends with the server")
        })
    });
    let writers: Vec<_> = writers.collect();
    progress.acquire_many(60).await.unwrap().forget();
    process.kill().unwrap();
    process.wait().unwrap();

    let server = serve(folder.path()).await;
    let fixture = Fixture { client: client_as(&server, &credentials()), server, folder };
    let listed: BTreeSet<String> = fixture.keys().await.into_iter().collect();
    for (writer, done) in join_all(writers).await.into_iter().map(Result::unwrap).enumerate() {
        for round in 0..done {
            assert!(fixture.get(&format!("new/{writer}/{round}")).await == stored(writer, round));
        }
        let unanswered = format!("new/{writer}/{done}");
        assert!(!listed.contains(&unanswered) || fixture.get(&unanswered).await == stored(writer, done));
        let replaced = fixture.get(&format!("replaced/{writer}")).await;
        let last = done.checked_sub(1).map(|round| stored(writer, round));
        assert!(Some(&replaced[..]) == last.as_deref() || replaced == stored(writer, done), "writer {writer}: {done}");
    }
    assert_eq!(fixture.left_over(), 0);
}

/// Not a test of its own: the server in the test above.
#[tokio::test]
async fn plays_the_server_that_is_killed() {
    let Some(folder) = std::env::var_os(SERVER_VARIABLE) else { return };
    let server = serve(Path::new(&folder)).await;
    println!("address: {}", server.address());
    std::future::pending::<()>().await;
}
