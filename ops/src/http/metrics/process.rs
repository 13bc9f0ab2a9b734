//! What the kernel says of this process, under the names that Prometheus has for it. A figure that /proc does not give
//! is left out.

use rustix::process::{Resource, getrlimit};

use super::families::{PROCESS_CPU, PROCESS_FDS, PROCESS_FDS_MAX, PROCESS_RSS};
use super::text::MetricsText;

/// proc(5) counts processor time in units of which Linux has shown this many to programs for ever (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// Writes what there is.
pub(super) fn write(text: &mut MetricsText) {
    let read = |file| std::fs::read_to_string(file).ok();
    if let Some(seconds) = read("/proc/self/stat").as_deref().and_then(cpu_seconds) {
        text.value(&PROCESS_CPU, &[], seconds);
    }
    if let Some(bytes) = read("/proc/self/status").as_deref().and_then(resident_bytes) {
        text.value(&PROCESS_RSS, &[], bytes);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        text.value(&PROCESS_FDS, &[], open.count());
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        text.value(&PROCESS_FDS_MAX, &[], most);
    }
}

/// utime and stime of proc(5)'s `stat`: the 14th and 15th field. The second, the name, may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / TICKS_PER_SECOND)
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_a_name_that_holds_anything() {
        let stat = "7 (a ) (b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 100 1000 10";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
    }

    #[test]
    fn the_kernel_tells_all_of_it_here() {
        let mut text = MetricsText::default();
        write(&mut text);
        assert_eq!(text.finish().matches("# TYPE process_").count(), 4);
    }
}
