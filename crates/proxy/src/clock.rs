//! One coarse clock a worker: read from the operating system once a wake-up ([`Clock::tick`]) and from memory
//! everywhere else, so that time-outs, latencies and the `Date` field share one reading.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant, SystemTime};

use weir_codec::date::{DATE_BYTES, http_date};

/// Milliseconds since the process began to serve, the same for all workers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch(Instant);

impl Epoch {
    pub(crate) fn now() -> Epoch {
        Epoch(Instant::now())
    }

    pub(crate) fn millis_at(self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.0).as_millis()).unwrap_or(u64::MAX)
    }
}

#[derive(Debug)]
pub(crate) struct Clock {
    epoch: Epoch,
    now: Cell<Instant>,
    date: RefCell<([u8; DATE_BYTES], Instant)>,
}

/// How old a written date may be: it has whole seconds.
const DATE_AGE: Duration = Duration::from_millis(500);

impl Clock {
    pub(crate) fn new(epoch: Epoch) -> Clock {
        let now = Instant::now();
        Clock { epoch, now: Cell::new(now), date: RefCell::new((date_now(), now)) }
    }

    /// Reads the operating system's clock (no kernel entry where the vDSO has it).
    pub(crate) fn tick(&self) -> Instant {
        let now = Instant::now();
        self.now.set(now);
        now
    }

    /// The last reading.
    pub(crate) fn now(&self) -> Instant {
        self.now.get()
    }

    pub(crate) fn millis(&self) -> u64 {
        self.epoch.millis_at(self.now())
    }

    /// The current date as HTTP writes it.
    pub(crate) fn date(&self) -> [u8; DATE_BYTES] {
        let mut date = self.date.borrow_mut();
        if self.now().saturating_duration_since(date.1) > DATE_AGE {
            *date = (date_now(), self.now());
        }
        date.0
    }
}

fn date_now() -> [u8; DATE_BYTES] {
    http_date(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}
