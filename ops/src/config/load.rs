//! Puts the configuration together: defaults < file < environment < flag.

use std::path::Path;

use toml::{Table, Value};

use super::reference::{KINDS, Kind, SECTIONS};
use super::{Config, ConfigError};

/// Environment variables that are settings start so: `COLDSTREAM_LOG__URL` is `log.url`.
pub const ENVIRONMENT_PREFIX: &str = "COLDSTREAM_";
/// Separates section and setting in the name of a variable, since settings have single underscores.
const LEVEL: &str = "__";

/// What environment and flags say, as text.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Name and value of every environment variable of the process.
    pub environment: Vec<(String, String)>,
    /// `section.setting=value`, the last one wins.
    pub flags: Vec<String>,
}

impl Config {
    /// Reads the configuration. Without a file the defaults hold.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the setting.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let mut table = file.map_or_else(|| Ok(Table::new()), read_file)?;
        for (name, value) in &overrides.environment {
            if let Some(path) = setting_of_variable(name)? {
                put(&mut table, &path, value, name)?;
            }
        }
        for flag in &overrides.flags {
            let (path, value) = flag.split_once('=').ok_or_else(|| refused(flag, "write section.setting=value"))?;
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            put(&mut table, &path, value, flag)?;
        }
        let config: Self = table.try_into().map_err(|error: toml::de::Error| wrong_shape(&error))?;
        config.check()?;
        Ok(config)
    }
}

fn read_file(path: &Path) -> Result<Table, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
        ConfigError::Parse { path: path.to_owned(), line, reason: error.message().to_owned() }
    })
}

/// What is wrong, on one line, and without the text that stands there: it may be a secret in the wrong place.
fn wrong_shape(error: &toml::de::Error) -> ConfigError {
    let said = error.to_string();
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let reason = match (said.find("string \""), said.rfind("\", expected")) {
        (Some(start), Some(end)) if start < end => format!("{}a text{}", &said[..start], &said[end + 1..]),
        _ => said,
    };
    ConfigError::Shape { reason }
}

/// The setting that a variable names; `None` for a variable that is none of ours.
fn setting_of_variable(name: &str) -> Result<Option<Vec<String>>, ConfigError> {
    let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX) else { return Ok(None) };
    let path: Vec<String> = rest.to_lowercase().split(LEVEL).map(str::to_owned).collect();
    if path.len() > 1 {
        return Ok(Some(path));
    }
    // COLDSTREAM_LOG_URL would be silently without effect otherwise.
    let mut sections = SECTIONS.iter().map(|section| section.path.as_str());
    match sections.find(|section| path[0].starts_with(&format!("{section}_"))) {
        Some(_) => Err(refused(name, "write two underscores between section and setting")),
        None => Ok(None),
    }
}

fn put(table: &mut Table, path: &[String], text: &str, name: &str) -> Result<(), ConfigError> {
    let (last, sections) = path.split_last().ok_or_else(|| refused(name, "names no setting"))?;
    let mut place = table;
    for section in sections {
        let entry = place.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
        place = entry.as_table_mut().ok_or_else(|| refused(name, "names no setting"))?;
    }
    let expected = match KINDS.get(path.join(".").as_str()) {
        Some(Kind::Number) => Some("a whole number is expected"),
        Some(Kind::YesOrNo) => Some("true or false is expected"),
        Some(Kind::List) => Some("a list is expected: [\"one\", \"two\"]"),
        Some(Kind::Names) => Some("a table is expected: { one = \"two\" }"),
        // What stands in a table is a text; an unknown setting is refused by its name.
        Some(Kind::Text | Kind::OneOf(_)) | None => None,
    };
    let value = match expected {
        None => Value::String(text.to_owned()),
        Some(expected) => {
            let line: Table = format!("value = {text}").parse().map_err(|_| refused(name, expected))?;
            line["value"].clone()
        }
    };
    place.insert(last.clone(), value);
    Ok(())
}

fn refused(name: &str, reason: &str) -> ConfigError {
    // A flag may carry a secret behind its '='.
    let name = name.split('=').next().unwrap_or(name).to_owned();
    ConfigError::Override { name, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("written");
        file
    }

    fn overrides(environment: &[(&str, &str)], flags: &[&str]) -> Overrides {
        Overrides {
            environment: environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        }
    }

    #[test]
    fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_defaults() {
        let file = file("[log]\nconnections = 3\n[window]\nmonths = 7\n[region]\nname = \"east\"\n");
        let said = overrides(
            &[("COLDSTREAM_LOG__CONNECTIONS", "4"), ("COLDSTREAM_WINDOW__MONTHS", "8"), ("PATH", "/bin")],
            &["log.connections=5"],
        );
        let config = Config::load(Some(file.path()), &said).expect("valid");
        assert_eq!((config.log.connections, config.window.months), (5, 8));
        assert_eq!((config.region.name.as_str(), config.http.connections_max), ("east", 1024));
    }

    #[test]
    fn every_default_is_valid_and_reads_back() {
        let config = Config::load(None, &Overrides::default()).expect("valid");
        assert_eq!(config, Config::default());
        let again: Table = config.shown().parse().expect("TOML");
        assert_eq!(again["archive"]["copies"].as_str(), Some("two"));
    }

    #[test]
    fn an_unknown_setting_is_refused_wherever_it_stands() {
        let file = file("[log]\nurll = \"x\"\n");
        assert!(Config::load(Some(file.path()), &Overrides::default()).is_err());
        for said in [
            overrides(&[("COLDSTREAM_LOG__URLL", "x")], &[]),
            overrides(&[("COLDSTREAM_LOG_URL", "x")], &[]),
            overrides(&[], &["lag.url=x"]),
            overrides(&[], &["log.connections=many"]),
            overrides(&[], &["log.connections"]),
        ] {
            assert!(Config::load(None, &said).is_err(), "{said:?}");
        }
    }

    #[test]
    fn a_bucket_can_come_from_the_environment_alone() {
        let said = overrides(
            &[("COLDSTREAM_ARCHIVE__STORE__BUCKET", "b"), ("COLDSTREAM_ARCHIVE__STORE__SECRET_ACCESS_KEY", "1234")],
            &[],
        );
        let config = Config::load(None, &said).expect("valid");
        let store = config.archive.store.clone().expect("there is one");
        let secret = store.secret_access_key.as_ref().map(segment_store::Secret::expose);
        assert_eq!((store.bucket.as_str(), secret), ("b", Some("1234")));
        assert!(!config.shown().contains("1234"), "secrets are hidden");
        assert!(!format!("{config:?}").contains("1234"), "secrets are hidden");
    }

    #[test]
    fn tokens_never_cross_a_network_in_clear_text_by_accident() {
        let open = overrides(&[], &["http.bind=0.0.0.0:80"]);
        assert!(Config::load(None, &open).is_err());
        let proxied = overrides(&[], &["http.bind=0.0.0.0:80", "http.behind_tls_proxy=true"]);
        assert!(Config::load(None, &proxied).is_ok());
    }

    #[test]
    fn what_is_wrong_is_said_on_one_line_with_what_to_do_and_without_the_text_that_stands_there() {
        let said = |flag: &str| Config::load(None, &overrides(&[], &[flag])).expect_err("refused").to_string();
        let expected = [
            ("log.connections=many", "log.connections: a whole number is expected"),
            ("http.answer_seconds=0", "http.answer_seconds: it is at least 1"),
            ("archive.interval_seconds=0", "archive.interval_seconds: it is at least 1"),
            ("log.queue_bytes=5", "log.queue_bytes: it must hold one request of 16 MiB: 16777216 or more"),
            (
                "replication.peer_url=dr:7400",
                "replication.peer_url: it is no URL: write https://HOST, with :PORT if need be",
            ),
        ];
        for (flag, text) in expected {
            assert_eq!(said(flag), text);
        }
        let file = file("log = \"postgres://app:secret@db, expected\"\n");
        let error = Config::load(Some(file.path()), &Overrides::default()).expect_err("refused").to_string();
        assert!(error.contains("in `log`") && !error.contains("secret") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn what_costs_safety_is_allowed_and_said() {
        let warnings = |flags: &[&str]| Config::load(None, &overrides(&[], flags)).expect("valid").warnings();
        assert_eq!(warnings(&[]), [""; 0]);
        let near = ["replication.token_file=t", "replication.peer_url=http://127.0.0.1:7400"];
        assert_eq!(warnings(&near), [""; 0]);
        let far = ["replication.token_file=t", "replication.peer_url=http://dr.example:7400"];
        assert!(warnings(&far)[0].starts_with("replication.peer_url"));
        let database = |rest: &str| warnings(&[&format!("log.url=postgres://app@{rest}")]);
        for quiet in [
            "/log",
            "localhost/log",
            "127.0.0.1/log",
            "[::1]/log",
            "%2Frun%2Fpostgresql/log",
            "db/log?sslmode=verify-full",
        ] {
            assert_eq!(database(quiet), [""; 0], "{quiet}");
        }
        for loud in ["db/log", "db/log?sslmode=disable", "db/log?sslmode=prefer", "10.0.0.1/log?sslmode=require"] {
            assert!(database(loud)[0].starts_with("log.url"), "{loud}");
        }
        let store = |endpoint: &str| {
            warnings(&["archive.peer_store.bucket=b", &format!("archive.peer_store.endpoint={endpoint}")])
        };
        assert_eq!(store("https://s3.example"), [""; 0]);
        assert_eq!(store("http://127.0.0.1:9000"), [""; 0]);
        assert!(store("http://s3.example:9000")[0].starts_with("archive.peer_store.endpoint"));
        assert!(warnings(&["archive.copies=one-accepted-by-operator"])[0].starts_with("archive.copies"));
        assert!(warnings(&["log.allow_superuser=true"])[0].starts_with("log.allow_superuser"));
    }

    #[test]
    fn one_bucket_under_two_names_is_not_two_copies() {
        let same = overrides(&[], &["archive.store.bucket=b", "archive.peer_store.bucket=b"]);
        assert!(Config::load(None, &same).is_err());
    }

    #[test]
    fn a_broken_line_is_named_but_not_shown() {
        let file = file("[log]\nconnections = 3\nurl = postgres://app:secret@db\n");
        let error = Config::load(Some(file.path()), &Overrides::default()).expect_err("refused").to_string();
        assert!(error.contains("line 3") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn an_error_names_the_flag_without_its_value() {
        let error = Config::load(None, &overrides(&[], &["log.connections=secret"])).expect_err("refused");
        assert!(!error.to_string().contains("secret"));
    }
}
