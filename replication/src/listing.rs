//! The names of a bucket's objects, page by page. It reads names and nothing else.

use domain::store::{ObjectStore, StoreError};

/// Names are listed this many at a time.
const PAGE: usize = 1000;

/// All keys that start with `prefix` and are above `after`, as `parse` reads them, in the order of the keys; what
/// it does not know is left out.
pub(crate) async fn names<T>(
    store: &dyn ObjectStore,
    prefix: &str,
    mut after: Option<String>,
    parse: fn(&str) -> Option<T>,
) -> Result<Vec<T>, StoreError> {
    let mut names = Vec::new();
    loop {
        let page = store.list(prefix, after.as_deref(), PAGE).await?;
        names.extend(page.iter().filter_map(|object| parse(&object.key)));
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.key.clone()),
            _ => return Ok(names),
        }
    }
}
