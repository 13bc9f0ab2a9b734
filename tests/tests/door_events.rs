//! Readers that read nothing, on a real server: one or many, they cost no memory and hold nobody up.

mod door_common;

use std::fs;

use door_common::Rig;
use futures::future::join_all;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Batches that warm what every append needs, before anything is measured.
const WARMING: usize = 30;
/// What is appended while nobody reads, in bytes of payload: batches, events in each, bytes of each.
const UNREAD: usize = 160;
const EVENTS: usize = 10;
const EVENT_BYTES: usize = 100_000;
/// Half of what is not read: a reader's page and its copies take a few times 8 MB and the allocator keeps as much again,
/// however much is appended; a backlog takes all of it.
const GROWTH_KIB_MAX: u64 = (UNREAD * EVENTS * EVENT_BYTES / 2 / 1024) as u64;

const READERS: usize = 150;

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

async fn append(rig: &Rig, batch: usize) {
    let data = "x".repeat(EVENT_BYTES);
    let events: Vec<Value> = (0..EVENTS)
        .map(|number| {
            json!({"specversion": "1.0", "id": format!("{batch}-{number}"), "source": "/tests", "type": "t",
                   "subject": "thing-1", "data": data})
        })
        .collect();
    let request = Client::new().post(format!("{}/v1/append", rig.region.url)).bearer_auth(&rig.region.tokens.appender);
    let request = request.header("content-type", "application/cloudevents-batch+json");
    let answer = request.body(Value::from(events).to_string()).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::CREATED);
}

/// A reader that takes nothing of its answer once that has begun.
async fn stuck(rig: &Rig, path: &str) -> TcpStream {
    let address = rig.region.url.trim_start_matches("http://");
    let mut stuck = TcpStream::connect(address).await.expect("connected");
    let token = &rig.region.tokens.reader;
    let head =
        format!("GET {path} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\nauthorization: Bearer {token}\r\n\r\n");
    stuck.write_all(head.as_bytes()).await.expect("sent");
    stuck.readable().await.expect("its answer has begun");
    stuck
}

/// A region that has taken its first events; its server's process, and what that holds in KiB.
async fn warmed() -> (Rig, u32, u64) {
    let mut rig = Rig::serving().await;
    let pid = rig.region.server().expect("it runs").pid();
    for batch in 0..WARMING {
        append(&rig, batch).await;
    }
    (rig, pid, resident_kib(pid))
}

#[tokio::test]
async fn a_reader_that_reads_nothing_costs_no_memory_and_holds_no_writer_up() {
    let (rig, pid, before) = warmed().await;
    let stuck = stuck(&rig, "/v1/log?follow=true").await;
    // Every one of these is acknowledged though the reader takes nothing.
    for batch in WARMING..WARMING + UNREAD {
        append(&rig, batch).await;
    }
    let after = resident_kib(pid);
    assert!(after < before + GROWTH_KIB_MAX, "{before} KiB before, {after} KiB after");
    drop(stuck);
    rig.end().await;
}

/// Their pages alone would take 8 MB each.
#[tokio::test]
async fn many_readers_that_read_nothing_cost_little_more_than_one() {
    let (rig, pid, before) = warmed().await;
    let stuck_ones = join_all((0..READERS).map(|_| stuck(&rig, "/v1/log"))).await;
    for batch in WARMING..2 * WARMING {
        append(&rig, batch).await;
    }
    let after = resident_kib(pid);
    println!("{READERS} readers: {before} KiB before, {after} KiB after");
    assert!(after < before + 3 * GROWTH_KIB_MAX, "{before} KiB before, {after} KiB after");
    drop(stuck_ones);
    rig.end().await;
}
