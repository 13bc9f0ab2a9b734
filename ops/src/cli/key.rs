//! `coldstream key generate`: the key that signs what a region says.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use domain::keys::SigningKey;
use serde::Serialize;

use super::Context;
use super::output::{CliError, say};
use crate::chance;

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make an Ed25519 key: the secret half into a file, the public half to stdout
    Generate {
        /// Name of the key, such as home.example
        #[arg(long)]
        name: String,
        /// File for the secret half; it must not exist yet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Debug, Serialize)]
struct Generated {
    name: String,
    public: String,
    file: PathBuf,
}

pub(super) fn run(context: &Context, command: &KeyCommand) -> Result<(), CliError> {
    let KeyCommand::Generate { name, out } = command;
    let public = generate(name, out)?;
    say(format!("the secret half is in {}: keep it, back it up, show it to nobody", out.display()));
    say("both regions need the public half in region.public_keys");
    let generated = Generated { name: name.clone(), public, file: out.clone() };
    context.output.data(&generated, |generated| generated.public.clone())
}

/// Makes a key; returns its public half.
///
/// # Errors
/// `Usage` for a name that no key can have; `Failed` if the file is there or cannot be written.
pub(crate) fn generate(name: &str, out: &Path) -> Result<String, CliError> {
    let key = SigningKey::from_seed(name, &chance::random());
    let key = key.map_err(|error| CliError::Usage(crate::chain::chain(&error)))?;
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(out).and_then(|mut file| {
        writeln!(file, "{}", key.to_secret_text())?;
        file.sync_all()
    });
    let named = |error: std::io::Error| std::io::Error::new(error.kind(), format!("{}: {error}", out.display()));
    written.map_err(named).map_err(CliError::failed("writing the key"))?;
    Ok(key.verify_key().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_readable_by_its_owner_alone_and_never_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("home.key");
        let public = generate("home.example", &file).expect("made");
        assert_eq!(file.metadata().expect("there").permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&file).expect("read");
        assert_eq!(SigningKey::parse(&text).expect("a key").verify_key().to_string(), public);
        let error = generate("home.example", &file).expect_err("it is there already").line();
        assert!(error.contains(&file.display().to_string()), "{error}");
    }
}
