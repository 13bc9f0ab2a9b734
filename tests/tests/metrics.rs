//! What two real regions tell Prometheus: every sample is in the table, and the figures move with what happens.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use ops::dev::Region;
use ops::http::metrics::families::ALL;
use ops::http::metrics::{Family, Kind};
use sqlx::{Connection, Executor, PgConnection};
use system_tests::torture::plan;
use system_tests::two_regions::{TwoRegions, append_run, head_beyond, seal_all, until};

/// The samples of one scrape, by name and labels as they are written.
#[derive(Debug)]
struct Scrape {
    samples: BTreeMap<String, f64>,
    text: String,
}

impl Scrape {
    /// Scrapes a region, and holds what comes to the table of all metrics.
    async fn of(region: &Region) -> Self {
        let request = reqwest::Client::new().get(format!("{}/metrics", region.url)).bearer_auth(&region.tokens.auditor);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 200);
        let text = answer.text().await.expect("a text");
        let (mut samples, mut described, mut group) = (BTreeMap::new(), BTreeSet::new(), None);
        for line in text.lines() {
            match line.strip_prefix("# ").map(|words| words.splitn(3, ' ').collect::<Vec<_>>()).as_deref() {
                Some(["HELP", name, help]) => assert_eq!(family(name).help, *help),
                Some(["TYPE", name, kind]) => {
                    assert_eq!(family(name).kind.as_str(), *kind);
                    assert!(described.insert((*name).to_owned()), "{name} is described twice");
                    group = Some(family(name).name);
                }
                Some(other) => panic!("{other:?}"),
                None => {
                    let (sample, value) = line.rsplit_once(' ').expect("a sample and its value");
                    let name = sample.split('{').next().expect("a name");
                    assert_eq!(group, Some(family(name).name), "{sample} is not in its family's group");
                    let value = value.parse().unwrap_or_else(|_| panic!("{line}: no number"));
                    assert!(samples.insert(sample.to_owned(), value).is_none(), "{sample} is there twice");
                }
            }
        }
        Self { samples, text }
    }

    /// Waits until a region says all of this.
    async fn says(region: &Region, expected: &[(&str, f64)]) -> Self {
        until(&format!("{} says {expected:?}", region.name), async || {
            let scrape = Self::of(region).await;
            let found = expected.iter().map(|(sample, _)| (*sample, scrape.samples.get(*sample).copied()));
            let others: Vec<_> = found.zip(expected).filter(|(found, (_, value))| found.1 != Some(*value)).collect();
            if others.is_empty() { Ok(scrape) } else { Err(format!("{others:?}")) }
        })
        .await
    }
}

/// Prometheus' own tool takes the text. Where it is not installed, that is said.
fn promtool_takes(text: &str) {
    let tool = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut tool = match tool {
        Ok(tool) => tool,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: promtool is not installed; Debian has it in the package prometheus");
            return;
        }
        Err(error) => panic!("promtool: {error}"),
    };
    tool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("read");
    let output = tool.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The family that a sample belongs to.
fn family(sample: &str) -> &'static Family {
    let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|part| sample.strip_suffix(part));
    let found = ALL.iter().find(|family| match family.kind {
        Kind::Histogram => Some(family.name) == of_histogram || family.name == sample,
        Kind::Counter | Kind::Gauge => family.name == sample,
    });
    found.unwrap_or_else(|| panic!("{sample} is in no table"))
}

/// What both regions say once 20 events are archived in both.
const LEVEL: [(&str, f64); 21] = [
    ("coldstream_log_up", 1.0),
    ("coldstream_log_head", 20.0),
    ("coldstream_log_epoch", 1.0),
    ("coldstream_log_pruned_head", 0.0),
    ("coldstream_log_coming_partition", 1.0),
    (r#"coldstream_view_checkpoint{view="view_content"}"#, 20.0),
    (r#"coldstream_view_lag_events{view="view_content"}"#, 0.0),
    ("coldstream_archive_segments", 1.0),
    ("coldstream_archive_sealed_head", 20.0),
    ("coldstream_archive_verified_head", 20.0),
    ("coldstream_archive_confirmed_head", 20.0),
    ("coldstream_archive_unconfirmed_segments", 0.0),
    ("coldstream_archive_manifest", 1.0),
    ("coldstream_evidence_cosigned_head", 20.0),
    ("coldstream_replication_peer_up", 1.0),
    ("coldstream_replication_peer_head", 20.0),
    ("coldstream_replication_lag_events", 0.0),
    ("coldstream_replication_lag_seconds", 0.0),
    ("coldstream_replication_mirror_backlog_manifests", 0.0),
    ("coldstream_fence_silent", 0.0),
    (r#"coldstream_worker_up{worker="seal"}"#, 1.0),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_move_with_what_happens_to_two_regions() {
    let mut regions = TwoRegions::start().await;
    append_run(&regions.home, "one", 20).await;
    head_beyond(&regions.dr, 20).await;
    seal_all(&regions.home).await;
    let roles = |own: f64| {
        [
            (r#"coldstream_log_role{role="active"}"#, own),
            (r#"coldstream_log_role{role="follower"}"#, 1.0 - own),
            (r#"coldstream_replication_peer_role{role="active"}"#, 1.0 - own),
        ]
    };
    let home = Scrape::says(&regions.home, &[&LEVEL[..], &roles(1.0)].concat()).await;
    Scrape::says(&regions.dr, &[&LEVEL[..], &roles(0.0)].concat()).await;
    for (sample, value) in [
        (r#"coldstream_append_requests_total{outcome="new"}"#, 1.0),
        ("coldstream_append_events_total", 20.0),
        ("coldstream_append_seconds_count", 1.0),
        ("coldstream_log_groups_total", 1.0),
        ("coldstream_log_group_events_sum", 20.0),
        ("coldstream_log_commit_seconds_count", 1.0),
        ("coldstream_log_queued_requests", 0.0),
        ("coldstream_log_queued_bytes", 0.0),
    ] {
        assert_eq!(home.samples.get(sample), Some(&value), "{sample}");
    }
    promtool_takes(&home.text);
    for sample in ["process_resident_memory_bytes", "process_start_time_seconds", "coldstream_archive_stored_bytes"] {
        assert!(home.samples[sample] > 0.0, "{sample}");
    }

    // The follower goes away, and home goes on.
    regions.dr.kill_server().await.expect("killed");
    append_run(&regions.home, "alone", 5).await;
    let behind = [
        ("coldstream_replication_peer_up", 0.0),
        ("coldstream_replication_lag_events", 5.0),
        ("coldstream_log_head", 25.0),
    ];
    let home = Scrape::says(&regions.home, &behind).await;
    assert!(home.samples["coldstream_replication_lag_seconds"] > 0.0 && home.samples["coldstream_fence_silent"] >= 1.0);

    // A log that does not answer takes its own figures away, and no others.
    let mut holder = PgConnection::connect(&regions.home.superuser_url()).await.expect("connected");
    holder.execute("BEGIN; LOCK TABLE coldstream.log_head IN ACCESS EXCLUSIVE MODE").await.expect("held");
    let home = Scrape::says(&regions.home, &[("coldstream_log_up", 0.0), ("coldstream_log_events_total", 25.0)]).await;
    for sample in ["coldstream_log_head", "coldstream_archive_sealed_head", "coldstream_replication_lag_events"] {
        assert_eq!(home.samples.get(sample), None, "nobody has told {sample}");
    }
    holder.close().await.expect("released");
    regions.dr.serve().await.expect("it serves again");
    let level = [("coldstream_log_up", 1.0), ("coldstream_replication_lag_events", 0.0), ("coldstream_log_head", 25.0)];
    Scrape::says(&regions.home, &level).await;
    Scrape::says(&regions.dr, &level).await;
    regions.end().await;
}

const NO_TABLES: &str = "CREATE FUNCTION public.no_tables() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'no room for tables';
    END $$;
    CREATE EVENT TRIGGER no_tables ON ddl_command_start WHEN TAG IN ('CREATE TABLE')
        EXECUTE FUNCTION public.no_tables()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coming_month_without_its_partition_is_an_alarm_from_the_first_scrape_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut region = Region::single(&plan(folder.path(), None)).await.expect("a region");
    let mut admin = PgConnection::connect(&region.superuser_url()).await.expect("connected");
    admin.execute(NO_TABLES).await.expect("made");
    region.serve().await.expect("it serves");
    let alarm = [("coldstream_log_coming_partition", 0.0), (r#"coldstream_worker_up{worker="maintenance"}"#, 0.0)];
    Scrape::says(&region, &alarm).await;
    admin.execute("DROP EVENT TRIGGER no_tables").await.expect("dropped");
    region.stop_server().await.expect("it ends");
    region.serve().await.expect("it serves again");
    Scrape::says(&region, &alarm.map(|(sample, _)| (sample, 1.0))).await;
    region.end().await.expect("it ends");
}
