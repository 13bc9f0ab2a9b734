//! Every setting and variable, as they are told to people: `ops/CONFIGURATION.md`. All of it comes from the structs that are
//! read and from the command line's own table, so nothing can be set that is not told. It must never name a setting itself.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use clap::Command;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::Value;

use super::{Config, is_changeable};

const HEAD: &str = "# Configuration\n\n\
    What the file of `coldstream --config FILE` may say (TOML; without the flag `coldstream.toml` in the working folder, if there \
    is one). Made by `coldstream config reference`; a test holds it to the code.\n\n\
    Defaults < file < environment < flag. A setting `http.bind` is `bind` in the section `[http]`, the variable \
    `COLDSTREAM_HTTP__BIND` (two underscores between section and setting, one inside of a name) and the flag \
    `--set http.bind=…`. Lists are written as in TOML there: `[\"one\", \"two\"]`. A setting that is unknown is refused.\n\n\
    Default: \"needed\" is what its section cannot be without; \"none\" is a setting that may be absent. Of a section that may be \
    absent as a whole the defaults are those of one that is there.\n\n\
    Reload: \"yes\" is in force after SIGHUP; of any other that differs, SIGHUP says that it needs a restart. What a file holds \
    that a setting names is another matter: its section says when it is read again.\n\n\
    `coldstream config show` prints what holds, with secrets hidden; `coldstream config check` tries it out.\n";

const VARIABLES: &str = "\n## Variables of commands\n\n\
    Commands that speak to a server are clients; they have no file of their own. Each variable is a flag too, and the flag wins.\n\n\
    | variable | flag | of | what it does |\n|---|---|---|---|\n";

const OTHERS: &str = "\nBeside these: AWS's own (`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, `AWS_WEB_IDENTITY_TOKEN_FILE`, \
    `AWS_CONTAINER_CREDENTIALS_FULL_URI` and the like) where a store has no credentials of its own; and PostgreSQL's own (`PGHOST`, `PGUSER`, `PGPASSWORD`, `PGSSLMODE` and the like) for what `log.url` \
    does not say.\n";

/// What a setting is written as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A text.
    Text,
    /// One of these words.
    OneOf(Vec<String>),
    /// A whole number.
    Number,
    /// `true` or `false`.
    YesOrNo,
    /// A list of texts.
    List,
    /// Names of the operator's choice, each with a text.
    Names,
}

impl Kind {
    fn of(schema: &Value) -> Self {
        let words = |value: &Value| value.as_str().map(str::to_owned);
        let named = |list: &Value, word: fn(&Value) -> &Value| -> Option<Vec<String>> {
            list.as_array()?.iter().map(|choice| words(word(choice))).collect()
        };
        if let Some(choices) = named(&schema["oneOf"], |choice| &choice["const"]).or(named(&schema["enum"], |it| it)) {
            return Self::OneOf(choices);
        }
        let named = [&schema["type"], &schema["type"][0]].into_iter().find_map(Value::as_str);
        match named.expect("every setting has a type") {
            "integer" => Self::Number,
            "boolean" => Self::YesOrNo,
            "array" => Self::List,
            "object" => Self::Names,
            _ => Self::Text,
        }
    }

    fn told(&self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::OneOf(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
            Self::Number => "whole number".to_owned(),
            Self::YesOrNo => "`true`, `false`".to_owned(),
            Self::List => "list of texts".to_owned(),
            Self::Names => "table of texts".to_owned(),
        }
    }
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its place, such as `http.bind`.
    pub path: String,
    /// What it is written as.
    pub kind: Kind,
    /// What a number counts.
    pub unit: &'static str,
    /// What holds where nothing is said, as TOML writes it.
    pub default: Option<String>,
    /// Whether its section is nothing without it.
    pub needed: bool,
    /// What it does.
    pub what: String,
}

/// Settings that stand together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Section {
    /// Its place, such as `http.tls`.
    pub path: String,
    /// What it is for.
    pub what: Vec<String>,
    /// Whether it may be absent as a whole.
    pub optional: bool,
    /// What stands in it.
    pub settings: Vec<Setting>,
}

/// All sections, the one that holds others first.
pub static SECTIONS: LazyLock<Vec<Section>> = LazyLock::new(|| {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Config>().to_value();
    let mut sections = Vec::new();
    let root = Section { path: String::new(), what: Vec::new(), optional: false, settings: Vec::new() };
    walk(&schema, &schema, root, &mut sections);
    sections.retain(|section| !section.settings.is_empty());
    sections
});

/// What each setting is written as, by its place.
pub(super) static KINDS: LazyLock<BTreeMap<&'static str, &'static Kind>> = LazyLock::new(|| {
    let settings = SECTIONS.iter().flat_map(|section| &section.settings);
    settings.map(|setting| (setting.path.as_str(), &setting.kind)).collect()
});

/// Notes the settings of `section`, which `schema` describes, and goes on into the sections in it.
fn walk(root: &Value, schema: &Value, mut section: Section, sections: &mut Vec<Section>) {
    let needed = schema["required"].as_array().cloned().unwrap_or_default();
    let mut inner = Vec::new();
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        let path = if section.path.is_empty() { name.clone() } else { format!("{}.{name}", section.path) };
        let (described, optional) = resolved(root, member);
        // Its place's own words first, then those of what stands there.
        let mut what = [member, described].map(|schema| flat(&schema["description"])).to_vec();
        what.dedup();
        what.retain(|words| !words.is_empty());
        if described["properties"].is_object() {
            inner.push((described, Section { path, what, optional, settings: Vec::new() }));
            continue;
        }
        let (kind, needed) = (Kind::of(described), needed.contains(&Value::from(name.as_str())));
        let what = what.first().cloned().unwrap_or_default();
        let unit = if kind == Kind::Number { unit(name) } else { "" };
        section.settings.push(Setting { path, unit, default: written(&member["default"]), needed, what, kind });
    }
    sections.push(section);
    for (schema, section) in inner {
        walk(root, schema, section, sections);
    }
}

/// What a member is, and whether it may be absent: references are followed.
fn resolved<'a>(root: &'a Value, member: &'a Value) -> (&'a Value, bool) {
    if let Some(reference) = member["$ref"].as_str() {
        return (root.pointer(reference.trim_start_matches('#')).expect("a reference leads somewhere"), false);
    }
    match member["anyOf"].as_array().map(Vec::as_slice) {
        Some([some, _null]) => (resolved(root, some).0, true),
        _ => (member, false),
    }
}

fn flat(description: &Value) -> String {
    description.as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A value as TOML writes it.
fn written(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        value => Some(value.to_string()),
    }
}

/// What the number of this name counts: names end with their units, or with what they count.
fn unit(name: &str) -> &'static str {
    let words: Vec<&str> = name.split('_').collect();
    match words[..] {
        [.., "bytes", "per", "second"] => "bytes a second",
        [.., "requests" | "failures", "per", "second"] => "requests a second",
        [.., "seconds"] => "seconds",
        [.., "events"] => "events",
        [.., "attempts"] => "attempts",
        ["months"] => "months",
        ["connections", ..] => "connections",
        _ if words.contains(&"bytes") => "bytes",
        _ => "",
    }
}

/// All of it, as Markdown.
#[must_use]
pub fn table(command: &Command) -> String {
    let mut text = HEAD.to_owned();
    let mut told: Vec<&str> = Vec::new();
    for section in SECTIONS.iter() {
        if told.contains(&section.path.as_str()) {
            continue;
        }
        let alike: Vec<&Section> = SECTIONS.iter().filter(|other| is_alike(section, other)).collect();
        told.extend(alike.iter().map(|section| section.path.as_str()));
        push_section(&mut text, &alike);
    }
    text.push_str(VARIABLES);
    let mut variables = BTreeMap::new();
    note_variables(command, "every command", &mut variables);
    for ((name, of), (flag, what)) in variables {
        text.push_str(&format!("| `{name}` | `--{flag}` | {of} | {what} |\n"));
    }
    text.push_str(OTHERS);
    text
}

/// Whether both have the same settings, and the same is to be said of them.
fn is_alike(one: &Section, other: &Section) -> bool {
    let inner = |section: &Section| {
        let name = |path: &str| path[section.path.len()..].to_owned();
        let row = |setting: &Setting| Setting { path: name(&setting.path), ..setting.clone() };
        let reload = section.settings.iter().map(|setting| is_changeable(&setting.path)).collect::<Vec<_>>();
        (section.settings.iter().map(row).collect::<Vec<_>>(), reload)
    };
    inner(one) == inner(other)
}

fn push_section(text: &mut String, alike: &[&Section]) {
    let names: Vec<String> = alike.iter().map(|section| format!("`{}`", section.path)).collect();
    text.push_str(&format!("\n## {}\n\n", names.join(", ")));
    let mut said: Vec<String> = Vec::new();
    for section in alike {
        let optional = if section.optional { " May be absent." } else { "" };
        let (own, of_all) = section.what.split_first().map_or(("", &[][..]), |(own, rest)| (own.as_str(), rest));
        match alike.len() {
            1 => said.push(format!("{own}{optional}")),
            _ => said.push(format!("`{}`: {own}{optional}", section.path)),
        }
        for words in of_all.iter().filter(|_| section.path == alike[alike.len() - 1].path) {
            said.push(words.clone());
        }
    }
    text.push_str(&format!("{}\n\n", said.join("\n\n")));
    text.push_str("| setting | type | unit | default | reload | what it does |\n|---|---|---|---|---|---|\n");
    for Setting { path, kind, unit, default, needed, what } in &alike[0].settings {
        let default = match (default, needed) {
            (_, true) => "needed".to_owned(),
            (Some(value), false) => format!("`{value}`"),
            (None, false) => "none".to_owned(),
        };
        // Of sections that are alike, the setting's name alone.
        let name = if alike.len() == 1 { path } else { &path[alike[0].path.len() + 1..] };
        let reload = if is_changeable(path) { "yes" } else { "no" };
        let what = what.trim_end_matches('.').replace('|', "\\|");
        text.push_str(&format!("| `{name}` | {} | {unit} | {default} | {reload} | {what} |\n", kind.told()));
    }
}

/// Notes what `command` and those under it read from the environment: flag and meaning, by variable and command.
fn note_variables(command: &Command, called: &str, variables: &mut BTreeMap<(String, String), (String, String)>) {
    for argument in command.get_arguments() {
        let Some(variable) = argument.get_env().map(|name| name.to_string_lossy().into_owned()) else { continue };
        let flag = argument.get_long().unwrap_or_default().to_owned();
        let what = argument.get_help().map(ToString::to_string).unwrap_or_default();
        variables.insert((variable, called.to_owned()), (flag, what));
    }
    for inner in command.get_subcommands() {
        let called = match called {
            "every command" => format!("`{}`", inner.get_name()),
            outer => format!("{} {}`", outer.trim_end_matches('`'), inner.get_name()),
        };
        note_variables(inner, &called, variables);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory;
    use serde::Deserialize;
    use toml::{Table, Value as Toml};

    use super::*;
    use crate::cli::Cli;
    use crate::config::changed;

    #[test]
    fn the_reference_is_written_down() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("CONFIGURATION.md");
        let written = std::fs::read_to_string(file).expect("ops/CONFIGURATION.md");
        assert!(written == table(&Cli::command()), "coldstream config reference > ops/CONFIGURATION.md");
    }

    #[test]
    fn every_setting_says_what_it_does_and_every_number_what_it_counts() {
        for Section { path, what, settings, .. } in SECTIONS.iter() {
            assert!(!what.is_empty(), "{path}");
            for Setting { path, kind, unit, what, .. } in settings {
                assert!(what.len() > 10, "{path}: {what:?}");
                assert!(*kind != Kind::Number || !unit.is_empty(), "{path}: a number of what?");
            }
        }
    }

    /// Two values that this setting can have.
    fn values(setting: &Setting) -> [Toml; 2] {
        let empty = Toml::Array(Vec::new());
        match (&setting.kind, setting.path.as_str()) {
            (_, "http.bind") => ["127.0.0.1:1", "127.0.0.1:2"].map(Toml::from),
            (_, "http.oidc.roles") => {
                ["reader", "auditor"].map(|role| Table::from_iter([("a".to_owned(), role.into())]).into())
            }
            (_, "http.oidc.algorithms") => [empty, vec!["RS256"].into()],
            (Kind::Text, _) => ["one", "two"].map(Toml::from),
            (Kind::OneOf(words), _) => [0, 1].map(|at| Toml::from(words[at].as_str())),
            (Kind::Number, _) => [1, 2].map(Toml::from),
            (Kind::YesOrNo, _) => [false, true].map(Toml::from),
            (Kind::List, _) => [empty, vec!["one"].into()],
            (Kind::Names, _) => panic!("{}: say two values", setting.path),
        }
    }

    fn put(table: &mut Table, path: &str, value: Toml) {
        let (sections, name) = path.rsplit_once('.').expect("section.setting");
        let place = sections.split('.').fold(table, |place, section| {
            place.entry(section).or_insert_with(|| Table::new().into()).as_table_mut().expect("a section")
        });
        place.insert(name.to_owned(), value);
    }

    #[test]
    fn a_reload_changes_what_it_says_and_nothing_else() {
        let settings: Vec<&Setting> = SECTIONS.iter().flat_map(|section| &section.settings).collect();
        let mut full = Table::new();
        for setting in &settings {
            put(&mut full, &setting.path, values(setting)[0].clone());
        }
        let config = |table: Table| Config::deserialize(table).expect("every setting is known");
        let before = config(full.clone());
        for setting in settings {
            let mut table = full.clone();
            put(&mut table, &setting.path, values(setting)[1].clone());
            let (mut reloaded, after) = (before.clone(), config(table));
            let differs = changed(&before, &after);
            assert!(matches!(&differs[..], [name] if name.starts_with(&setting.path)), "{}: {differs:?}", setting.path);
            reloaded.take_changeable(&after);
            assert_eq!(reloaded == after, is_changeable(&setting.path), "{}", setting.path);
            assert_eq!(reloaded == before, !is_changeable(&setting.path), "{}", setting.path);
        }
    }
}
