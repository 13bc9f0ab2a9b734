//! Which settings differ between two configurations: their names alone, for values may be secrets. And which of them may
//! change while a region serves.

use toml::{Table, Value};

use super::Config;

/// Sections and settings that may change while a region serves (SIGHUP); the other ones need a restart.
const CHANGEABLE: [&str; 3] = ["http.oidc", "http.rates", "telemetry.filter"];

/// Whether this setting, such as `http.bind`, may change while a region serves.
#[must_use]
pub fn is_changeable(setting: &str) -> bool {
    let inside =
        |section: &str| setting.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    CHANGEABLE.into_iter().any(inside)
}

impl Config {
    /// Takes over from `new` what may change while a region serves, and no more.
    pub fn take_changeable(&mut self, new: &Self) {
        self.http.rates = new.http.rates;
        self.http.oidc.clone_from(&new.http.oidc);
        self.telemetry.filter.clone_from(&new.telemetry.filter);
    }
}

/// The names of the settings that differ, such as `http.bind`.
#[must_use]
pub fn changed(before: &Config, after: &Config) -> Vec<String> {
    let table = |config: &Config| Table::try_from(config).expect("every setting is a TOML value");
    let mut names = Vec::new();
    differ("", &table(before), &table(after), &mut names);
    // Secrets are hidden in tables, and differ all the same.
    let stores = |config: &Config| [config.archive.store.clone(), config.archive.peer_store.clone()];
    let secret = |store: &Option<segment_store::StoreConfig>| store.as_ref().and_then(|s| s.secret_access_key.clone());
    let [before_stores, after_stores] = [before, after].map(|config| stores(config).map(|store| secret(&store)));
    let hidden = [
        ("log.url", before.log.url != after.log.url),
        ("archive.store.secret_access_key", before_stores[0] != after_stores[0]),
        ("archive.peer_store.secret_access_key", before_stores[1] != after_stores[1]),
    ];
    for (name, differs) in hidden {
        if differs && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    names
}

fn differ(section: &str, before: &Table, after: &Table, names: &mut Vec<String>) {
    let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let name = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
        match (before.get(key), after.get(key)) {
            (Some(Value::Table(before)), Some(Value::Table(after))) => differ(&name, before, after, names),
            (before, after) if before != after => names.push(name),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SecretUrl;

    #[test]
    fn what_differs_is_named_also_where_it_is_hidden_and_never_shown() {
        let before = Config::default();
        let mut after = before.clone();
        assert_eq!(changed(&before, &after), [""; 0]);
        after.http.connections_max += 1;
        after.region.name = "east".to_owned();
        after.archive.store = Some(segment_store::StoreConfig::at("http://127.0.0.1:1", "b", "id", "hush"));
        assert_eq!(
            changed(&before, &after),
            ["archive.store", "archive.store.secret_access_key", "http.connections_max", "region.name"]
        );
        let mut again = after.clone();
        again.archive.store = Some(segment_store::StoreConfig::at("http://127.0.0.1:1", "b", "id", "other"));
        again.log.url = SecretUrl::new("postgres://app:other@/coldstream");
        after.log.url = SecretUrl::new("postgres://app:secret@/coldstream");
        assert_eq!(changed(&after, &again), ["archive.store.secret_access_key", "log.url"]);
    }
}
