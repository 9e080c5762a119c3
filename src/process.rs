//! The `process_*` metrics that Prometheus client libraries have in common.
//!
//! The `prometheus` crate's own collector cuts CPU time to whole seconds, which makes a rate of a mostly idle process
//! a row of zeros with spikes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use prometheus::core::Desc;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::exposition::OwnCollector;
use crate::exposition::family::Family;
use crate::exposition::own::{FamilySink, OwnMetrics};

const CPU_SECONDS: Family<0> =
    Family::counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", []);
const MAX_FDS: Family<0> = Family::gauge("process_max_fds", "Maximum number of open file descriptors.", []);
const OPEN_FDS: Family<0> = Family::gauge("process_open_fds", "Number of open file descriptors.", []);
const RESIDENT_BYTES: Family<0> = Family::gauge("process_resident_memory_bytes", "Resident memory size in bytes.", []);
const START_TIME: Family<0> =
    Family::gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", []);
const THREADS: Family<0> = Family::gauge("process_threads", "Number of OS threads in the process.", []);
const VIRTUAL_BYTES: Family<0> = Family::gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", []);

/// The metrics of this process. Those that the system does not provide are left out: without `/proc` all but CPU time and the
/// limit of file descriptors.
struct ProcessMetrics {
    /// `/proc/self/stat`, whose text the kernel writes at each read from its beginning. To open it takes several times as long.
    stat: Option<File>,
    /// `/proc/self/fd`.
    descriptors: Option<File>,
    /// Read once: it never changes, and the file that the time of the boot stands in grows with the processors.
    start_time_seconds: Option<f64>,
}

/// Returns a collector of the metrics of the calling process.
pub fn process_collector() -> OwnCollector {
    OwnCollector::new(ProcessMetrics::new())
}

impl ProcessMetrics {
    fn new() -> Self {
        let stat = File::open("/proc/self/stat").ok();
        let start_time_seconds = stat.as_ref().and_then(Stat::read).as_ref().and_then(start_time_seconds);
        Self { stat, descriptors: File::open("/proc/self/fd").ok(), start_time_seconds }
    }

    fn open_descriptors(&self) -> Option<u64> {
        // Since Linux 6.2 the size of the directory is the number of its entries; before it is 0.
        let size = self.descriptors.as_ref()?.metadata().ok()?.len();
        if size > 0 {
            return Some(size);
        }
        // One of them is the descriptor that the directory is read through.
        let entries = fs::read_dir("/proc/self/fd").ok()?.count();
        u64::try_from(entries).ok()?.checked_sub(1)
    }
}

impl OwnMetrics for ProcessMetrics {
    fn descs(&self) -> Vec<Desc> {
        let families = [&CPU_SECONDS, &MAX_FDS, &OPEN_FDS, &RESIDENT_BYTES, &START_TIME, &THREADS, &VIRTUAL_BYTES];
        families.map(Family::desc).into()
    }

    fn write(&self, sink: &mut dyn FamilySink) {
        CPU_SECONDS.write_value(cpu_seconds(), sink);
        let mut write = |family: &Family<0>, value: Option<f64>| {
            if let Some(value) = value {
                family.write_value(value, sink);
            }
        };
        write(&MAX_FDS, getrlimit(Resource::Nofile).current.map(|descriptors| descriptors as f64));
        write(&OPEN_FDS, self.open_descriptors().map(|descriptors| descriptors as f64));
        let stat = self.stat.as_ref().and_then(Stat::read);
        let stat = stat.as_ref();
        write(&RESIDENT_BYTES, stat.map(|stat| stat.resident_bytes));
        write(&START_TIME, self.start_time_seconds);
        write(&THREADS, stat.map(|stat| stat.threads));
        write(&VIRTUAL_BYTES, stat.map(|stat| stat.virtual_bytes));
    }
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn start_time_seconds(stat: &Stat) -> Option<f64> {
    let system = fs::read_to_string("/proc/stat").ok()?;
    let boot_seconds: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot_seconds + stat.start_ticks / clock_ticks_per_second() as f64)
}

/// The fields of `/proc/self/stat` that are used. Source: proc_pid_stat(5).
#[derive(Debug, PartialEq)]
struct Stat {
    threads: f64,
    start_ticks: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

impl Stat {
    fn read(file: &File) -> Option<Self> {
        // 52 numbers and a name: the kernel writes them with one read.
        let mut text = [0; 2048];
        let len = file.read_at(&mut text, 0).ok()?;
        Self::parse(&text[..len], page_size() as f64)
    }

    fn parse(text: &[u8], page_bytes: f64) -> Option<Self> {
        // The second field is the program's name in parentheses, and may itself hold any bytes, parentheses included.
        let name_end = text.iter().rposition(|byte| *byte == b')')?;
        let after_name = str::from_utf8(text.get(name_end + 2..)?).ok()?;
        let mut fields = after_name.split(' ').zip(3..);
        let mut field = |number: u32| fields.find(|(_, of)| *of == number)?.0.trim_end().parse::<f64>().ok();
        Some(Self {
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};
    use std::thread;
    use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

    use prometheus::core::Collector as _;

    use super::*;

    fn value(name: &str) -> f64 {
        value_of(&process_collector(), name)
    }

    fn value_of(collector: &OwnCollector, name: &str) -> f64 {
        let families = collector.collect();
        let family = families.iter().find(|family| family.name() == name).unwrap_or_else(|| panic!("no {name}"));
        let [metric] = family.get_metric() else { panic!("{name} has not one series") };
        metric.get_counter().get_value() + metric.get_gauge().get_value()
    }

    #[test]
    fn stat_is_read_behind_a_name_with_parentheses() {
        let text = b"7 (a) b (\xff) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 1234 40960 10 18446744073709551615";
        let stat = Stat { threads: 9.0, start_ticks: 1234.0, virtual_bytes: 40960.0, resident_bytes: 40960.0 };
        assert_eq!(Stat::parse(text, 4096.0), Some(stat));
        assert_eq!(Stat::parse(b"7 (short) S 1 7", 4096.0), None);
    }

    #[test]
    fn cpu_time_has_fractions_and_rises_with_work() {
        let (before, deadline) = (value("process_cpu_seconds_total"), Instant::now() + Duration::from_secs(30));
        while value("process_cpu_seconds_total") < before + 0.01 {
            assert!(Instant::now() < deadline, "30 s of work cost no CPU time");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn each_collection_has_the_values_of_its_moment() {
        const MANY: usize = 100;
        let collector = process_collector();
        collector.collect();
        let _files: Vec<_> = (0..MANY).map(|_| File::open("/proc/self/stat").unwrap()).collect();
        let (sender, receiver) = mpsc::channel::<()>();
        let receiver = Mutex::new(receiver);
        thread::scope(|scope| {
            // Dropped at the end, or by a panic: the threads wait for it.
            let _sender = sender;
            (0..MANY).for_each(|_| drop(scope.spawn(|| receiver.lock().map(|receiver| receiver.recv()).is_ok())));
            assert!(value_of(&collector, "process_threads") > MANY as f64);
            assert!(value_of(&collector, "process_open_fds") > MANY as f64);
        });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_tells_everything() {
        assert_eq!(process_collector().collect().len(), 7);
        assert!(value("process_threads") >= 1.0);
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!((3.0..value("process_max_fds")).contains(&value("process_open_fds")));
        let now_seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((now_seconds - 3600.0..now_seconds + 5.0).contains(&value("process_start_time_seconds")));
    }
}
