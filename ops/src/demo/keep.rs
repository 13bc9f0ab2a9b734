//! What an outsider gets: both buckets as plain files, public keys, journals, figures. And the outsider itself.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use archiver::audit;
use domain::keys::{KeyRing, VerifyKey};
use domain::store::{ObjectStore, StoreError};
use segment_store::S3Store;
use tokio::process::Command;

use super::api::{Api, number};
use super::report::Figures;
use super::{Demo, DemoError, DemoOptions, chapter, check, counted, held, io, note};
use crate::clock::Stopwatch;
use crate::config::{Config, Overrides};
use crate::dev::Region;
use crate::dev::process::run_guarded;

fn store_error(error: StoreError) -> DemoError {
    DemoError::Io { doing: "reading a bucket", source: std::io::Error::other(error) }
}

fn bucket(region: &Region) -> Result<S3Store, DemoError> {
    let config = Config::load(Some(&region.config), &Overrides::default());
    let config =
        config.map_err(|error| DemoError::Check(format!("{}'s configuration is good: {error}", region.name)))?;
    let store = config.archive.store.ok_or_else(|| DemoError::Check("a region of the demo has a bucket".into()))?;
    S3Store::connect(&store).map_err(|error| DemoError::Check(format!("the bucket's settings are good: {error}")))
}

impl Demo {
    /// Seals the rest in dr, then audits dr's bucket from nothing but itself and the public keys.
    pub(super) async fn audit(&mut self) -> Result<(), DemoError> {
        chapter(
            "An auditor looks",
            "With the bucket and two public keys alone: no database, no server, no trust in us.",
        );
        note("sealing what is not archived yet");
        Api::of(&self.dr).archive_run(true).await?;
        let head = number(&Api::of(&self.dr).status().await?.head)?;
        let keys = [&self.home, &self.dr].map(|region| VerifyKey::parse(&region.public_key));
        let [Ok(home), Ok(dr)] = keys else { return Err(DemoError::Check("the public keys are keys".into())) };
        let keys = KeyRing::new(vec![home, dr]).map_err(|error| DemoError::Check(error.to_string()))?;
        let watch = Stopwatch::start();
        let report = audit::verify(&bucket(&self.dr)?, &keys, None, &|_| ()).await;
        let report = report.map_err(|error| DemoError::Check(format!("the audit comes to its end: {error}")))?;
        check(report.is_proven(), || format!("the archive is proven: {:?}", report.findings))?;
        check(report.verified_head == head, || {
            format!("all {head} events are archived, not {}", report.verified_head)
        })?;
        self.figures.audit_rate = super::report::rate(report.records, watch.elapsed().as_secs_f64());
        held(&format!(
            "proven: {} records in {} segments, {} signed manifests, {} epoch claims",
            counted(report.records),
            report.segments,
            report.manifests,
            report.epoch_claims,
        ));
        let cosigned =
            report.cosigned_head.map_or_else(|| "nothing".into(), |head| format!("the first {}", counted(head)));
        held(&format!("both regions have signed for {cosigned}"));
        Ok(())
    }

    /// Leaves everything for an outsider, and runs the one that was written from the format page alone.
    pub(super) async fn hand_over(&mut self, options: &DemoOptions, oracle: Option<&Path>) -> Result<(), DemoError> {
        let kept = options.keep.clone().unwrap_or_else(|| self.folder.join("kept"));
        std::fs::create_dir_all(&kept).map_err(io("making the folder to keep"))?;
        // Home is dead as a region; its disks are read as they were left.
        self.home.revive().await?;
        for region in [&self.home, &self.dr] {
            export(&bucket(region)?, &kept.join(region.name)).await?;
        }
        let keys = format!("{}\n{}\n", self.home.public_key, self.dr.public_key);
        std::fs::write(kept.join("public-keys.txt"), keys).map_err(io("writing the public keys"))?;
        copy_folder(&self.folder.join("journals"), &kept.join("journals"))?;
        write_result(&kept, &self.figures)?;
        match &options.outsider {
            None => Ok(()),
            Some(outsider) => self.run_outsider(outsider, &kept, oracle).await,
        }
    }

    async fn run_outsider(&self, outsider: &Path, kept: &Path, oracle: Option<&Path>) -> Result<(), DemoError> {
        note("running tests/outsider.py: a verifier in Python, written from the format's description alone");
        let mut command = Command::new("python3");
        command.arg(outsider).arg(kept).stderr(Stdio::inherit());
        if let Some(oracle) = oracle {
            command.arg("--history").arg(&self.history).arg("--oracle").arg(oracle);
        }
        let status = run_guarded(&mut command).await.map_err(io("running the outsider"))?.status;
        check(status.success(), || "the outsider finds everything as it should be".into())?;
        held("it comes to the same result, and to the oracle's");
        Ok(())
    }
}

/// Writes what was measured, for the outsider and for machines.
pub(super) fn write_result(kept: &Path, figures: &Figures) -> Result<(), DemoError> {
    let result = serde_json::to_vec_pretty(&figures.to_json()).expect("figures are texts and numbers");
    std::fs::write(kept.join("result.json"), result).map_err(io("writing the figures"))
}

/// Copies a bucket's objects into files named after their keys.
async fn export(store: &S3Store, folder: &Path) -> Result<(), DemoError> {
    let mut after: Option<String> = None;
    loop {
        let page = store.list("", after.as_deref(), 1000).await.map_err(store_error)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.key.clone());
        for meta in &page {
            let file: PathBuf = folder.join(&meta.key);
            let parent = file.parent().expect("a key below a folder has a parent");
            std::fs::create_dir_all(parent).map_err(io("making a folder"))?;
            let object = store.get(&meta.key).await.map_err(store_error)?;
            std::fs::write(&file, object.bytes).map_err(io("writing an object"))?;
        }
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), DemoError> {
    std::fs::create_dir_all(to).map_err(io("making a folder"))?;
    for entry in std::fs::read_dir(from).map_err(io("reading the journals"))? {
        let entry = entry.map_err(io("reading the journals"))?;
        std::fs::copy(entry.path(), to.join(entry.file_name())).map_err(io("copying a journal"))?;
    }
    Ok(())
}
