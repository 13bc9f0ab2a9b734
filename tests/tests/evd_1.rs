//! EVD-1: what is published was signed by both regions and is held by both, whichever of them is killed with SIGKILL
//! between whichever two steps of signing, cosigning and taking the other's word.

use system_tests::two_regions::{TwoRegions, append_run, dies_at, lines, published, roots, seal_all, until};

/// In each round one server dies at this step.
const STEPS: [(&str, &str); 9] = [
    ("home", "cosign.sign"),
    ("dr", "cosign.publish"),
    ("dr", "cosign.store"),
    ("dr", "cosign.deliver"),
    ("home", "cosign.publish"),
    ("home", "cosign.store"),
    ("dr", "confirm.statement"),
    ("home", "confirm.read"),
    ("home", "confirm.take"),
];
const EVENTS_A_ROUND: usize = 7;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_any_two_steps_of_signing_leaves_what_the_next_round_finishes() {
    let mut regions = TwoRegions::start().await;
    let keys = regions.keys();
    for (round, (victim, step)) in (1..).zip(STEPS) {
        eprintln!("kill -9: {victim} at {step}");
        // Dr is away, so all of this is still to be shipped, mirrored, confirmed and cosigned.
        regions.dr.kill_server().await.expect("killed");
        append_run(&regions.home, &format!("round-{round}"), EVENTS_A_ROUND).await;
        seal_all(&regions.home).await;
        if victim == "home" {
            regions.home.kill_server().await.expect("killed");
            regions.dr.serve().await.expect("dr serves again");
            dies_at(&mut regions.home, step).await;
            regions.home.serve().await.expect("home serves again");
        } else {
            dies_at(&mut regions.dr, step).await;
            regions.dr.serve().await.expect("dr serves again");
        }
        let head = round * EVENTS_A_ROUND;
        let lines = lines(&regions.home).await;
        assert_eq!(lines.len(), head);
        let roots = roots(&lines);
        for region in [&regions.home, &regions.dr] {
            until(&format!("{} has published {head}", region.name), async || {
                let sizes = published(region, &keys, &roots).await;
                if sizes.contains(&u64::try_from(head).expect("small")) { Ok(()) } else { Err(sizes) }
            })
            .await;
        }
        regions.is_proven(head, 1).await;
    }
    regions.end().await;
}
