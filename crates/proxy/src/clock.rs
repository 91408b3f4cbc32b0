//! One coarse clock a worker: read from the operating system after each wait of the thread and every few events
//! ([`Clock::on_event`]), and from memory everywhere else, so that time-outs, latencies and the `Date` field share one reading.
//!
//! A [`Moment`] is a plain number of microseconds: a request compares and adds moments a dozen times, and the standard
//! library's instants cost more for each.

use std::cell::{Cell, RefCell};
use std::ops::Add;
use std::time::{Duration, Instant, SystemTime};

use weir_codec::date::{DATE_BYTES, http_date};

/// When the process began to serve; moments are counted from it, the same for all workers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch(Instant);

impl Epoch {
    pub(crate) fn start() -> Epoch {
        Epoch(Instant::now())
    }

    /// Reads the operating system's clock (no kernel entry where the vDSO has it).
    pub(crate) fn now(self) -> Moment {
        Moment(micros(self.0.elapsed()))
    }

    fn instant(self, moment: Moment) -> Instant {
        // Beyond what can be told apart from never, any instant far away will do.
        const FAR: u64 = 100 * 365 * 86_400 * 1_000_000;
        self.0 + Duration::from_micros(moment.0.min(FAR))
    }
}

/// Microseconds since the [`Epoch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Moment {
    /// Further away than anything that is waited for.
    pub(crate) fn is_never(self) -> bool {
        self.0 == u64::MAX
    }

    pub(crate) fn millis(self) -> u64 {
        self.0 / 1000
    }

    /// Microseconds from `earlier` to this moment; 0 if it is not earlier.
    pub(crate) fn micros_since(self, earlier: Moment) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    pub(crate) fn since(self, earlier: Moment) -> Duration {
        Duration::from_micros(self.micros_since(earlier))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(micros(duration)))
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(duration.subsec_micros()))
}

thread_local! {
    /// The thread has waited since its clock was read.
    static WAITED: Cell<bool> = const { Cell::new(true) };
}

/// To be called on a worker's thread whenever it has waited for events.
pub(crate) fn thread_has_waited() {
    WAITED.set(true);
}

/// Events that share a reading while the thread does not wait. Source: ours; what one event costs is microseconds.
const EVENTS_PER_READING: u32 = 8;

#[derive(Debug)]
pub(crate) struct Clock {
    epoch: Epoch,
    now: Cell<Moment>,
    /// Events since the last reading.
    events: Cell<u32>,
    date: RefCell<([u8; DATE_BYTES], Moment)>,
}

/// How old a written date may be: it has whole seconds.
const DATE_AGE: Duration = Duration::from_millis(500);

impl Clock {
    pub(crate) fn new(epoch: Epoch) -> Clock {
        let now = epoch.now();
        Clock { epoch, now: Cell::new(now), events: Cell::new(0), date: RefCell::new((date_now(), now)) }
    }

    /// Reads the operating system's clock.
    pub(crate) fn tick(&self) -> Moment {
        let now = self.epoch.now();
        self.now.set(now);
        self.events.set(0);
        now
    }

    /// Something happened: reads the clock if the last reading is older than a few events. Right to within what these cost.
    pub(crate) fn on_event(&self) {
        let events = self.events.get() + 1;
        if WAITED.replace(false) || events >= EVENTS_PER_READING {
            self.tick();
        } else {
            self.events.set(events);
        }
    }

    /// The last reading.
    pub(crate) fn now(&self) -> Moment {
        self.now.get()
    }

    /// For the runtime's timers.
    pub(crate) fn instant(&self, moment: Moment) -> tokio::time::Instant {
        self.epoch.instant(moment).into()
    }

    /// The current date as HTTP writes it.
    pub(crate) fn date(&self) -> [u8; DATE_BYTES] {
        let mut date = self.date.borrow_mut();
        if self.now() > date.1 + DATE_AGE {
            *date = (date_now(), self.now());
        }
        date.0
    }
}

fn date_now() -> [u8; DATE_BYTES] {
    http_date(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_do_not_wrap() {
        let moment = Moment(5);
        assert_eq!((moment + Duration::from_millis(1)).millis(), 1);
        assert_eq!(moment + Duration::MAX, Moment(u64::MAX));
        assert!((moment + Duration::from_millis(u64::MAX)).is_never());
        assert!(!moment.is_never());
        assert_eq!(moment.since(Moment(9)), Duration::ZERO);
        Epoch::start().instant(Moment(u64::MAX));
    }
}
