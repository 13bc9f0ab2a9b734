//! Writers that append while a region is killed, and keep a journal of what was acknowledged to them.
//!
//! A journal's line is written after the acknowledgement arrived: what stands in it must survive, or be within
//! the bound that the failover stated. A writer never counts what it only sent.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

/// What a writer was acknowledged: one line of its journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Acknowledged {
    /// The event's source.
    pub(super) source: String,
    /// The event's id.
    pub(super) id: String,
    /// Where it was said to stand.
    pub(super) position: String,
    /// Its version, as it was said.
    pub(super) version: String,
    /// The epoch that acknowledged it.
    pub(super) epoch: String,
}

/// Writers at work.
pub(super) struct Writers {
    tasks: Vec<JoinHandle<std::io::Result<()>>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

/// One writer: its own stream, its own source, one event a request.
struct Writer {
    http: reqwest::Client,
    url: String,
    token: String,
    name: String,
    journal: PathBuf,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

#[derive(Deserialize)]
struct Answer {
    events: [AnswerEvent; 1],
}

#[derive(Deserialize)]
struct AnswerEvent {
    position: String,
    version: String,
    epoch: String,
}

impl Writers {
    /// Starts `count` writers against `url`; their journals go to `folder`.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub(super) fn start(count: usize, run: &str, url: &str, token: &str, folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writer = |number: usize| {
            let name = format!("{run}-{number}");
            let writer = Writer {
                http: reqwest::Client::new(),
                url: format!("{url}/v1/append"),
                token: token.to_owned(),
                journal: folder.join(format!("{name}.ndjson")),
                name,
                stop: stop.clone(),
                acknowledged: acknowledged.clone(),
            };
            tokio::spawn(writer.run())
        };
        Ok(Self { tasks: (0..count).map(writer).collect(), stop, acknowledged })
    }

    /// How many appends were acknowledged so far.
    #[must_use]
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Stops them and waits until their journals are written.
    ///
    /// # Errors
    /// If a journal could not be written: then nothing can be said of what was acknowledged.
    pub(super) async fn stop(self) -> std::io::Result<u64> {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.map_err(std::io::Error::other)??;
        }
        Ok(self.acknowledged.load(Ordering::SeqCst))
    }
}

impl Writer {
    async fn run(self) -> std::io::Result<()> {
        let mut journal = tokio::fs::File::create(&self.journal).await?;
        let source = format!("/demo/writers/{}", self.name);
        let mut number = 0_u64;
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        while !self.stop.load(Ordering::SeqCst) {
            number += 1;
            let id = format!("{}:{number}", self.name);
            // An error is no acknowledgement: this writer goes on with its next event, as one that lost interest.
            let Ok(AnswerEvent { position, version, epoch }) = self.append(&source, &id).await else {
                // The region is dead or refuses: one more try each tenth of a second is enough.
                pace.tick().await;
                continue;
            };
            let line = Acknowledged { source: source.clone(), id, position, version, epoch };
            let mut line = serde_json::to_vec(&line)?;
            line.push(b'\n');
            journal.write_all(&line).await?;
            self.acknowledged.fetch_add(1, Ordering::SeqCst);
        }
        journal.flush().await?;
        journal.sync_all().await
    }

    async fn append(&self, source: &str, id: &str) -> Result<AnswerEvent, reqwest::Error> {
        let event = serde_json::json!({
            "specversion": "1.0", "id": id, "source": source, "type": "content.revised",
            "subject": format!("note-{}", self.name), "datacontenttype": "application/json",
            "data": { "text": format!("written as {id} while the region may die at any moment") },
        });
        let request = self.http.post(&self.url).bearer_auth(&self.token).timeout(Duration::from_secs(10));
        let request = request.header("content-type", "application/cloudevents+json").body(event.to_string());
        let Answer { events: [event] } = request.send().await?.error_for_status()?.json().await?;
        Ok(event)
    }
}
