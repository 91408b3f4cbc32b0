//! Which tries are worth another one, as routes say it.

use std::time::Duration;

use crate::resource;

/// `rules[].retry`: connection errors are always worth another try, responses by their status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    codes: Box<[u16]>,
    /// Tries after the first.
    pub attempts: u32,
    /// The least time between two tries.
    pub backoff: Duration,
}

impl RetryPolicy {
    pub(crate) fn compile(source: &resource::Retry) -> Result<RetryPolicy, String> {
        let code = |&code: &u32| {
            let number = u16::try_from(code).ok().filter(|number| (400..600).contains(number));
            number.ok_or_else(|| format!("{code} is not the status of an error"))
        };
        let mut codes = source.codes.iter().map(code).collect::<Result<Vec<u16>, String>>()?;
        codes.sort_unstable();
        codes.dedup();
        Ok(RetryPolicy {
            codes: codes.into(),
            attempts: source.attempts,
            backoff: Duration::from_millis(source.backoff_ms),
        })
    }

    /// Whether a response with this status is worth another try. A try that took too long counts as 504.
    pub fn covers(&self, status: u16) -> bool {
        self.codes.binary_search(&status).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_statuses_are_covered_and_no_others() {
        let source = resource::Retry { codes: vec![503, 500, 503], attempts: 2, backoff_ms: 7 };
        let policy = RetryPolicy::compile(&source).unwrap();
        assert_eq!((policy.attempts, policy.backoff), (2, Duration::from_millis(7)));
        assert!(policy.covers(500) && policy.covers(503) && !policy.covers(502) && !policy.covers(504));
        for code in [0, 200, 399, 600, 65_536 + 503] {
            assert!(
                RetryPolicy::compile(&resource::Retry { codes: vec![code], ..source.clone() }).is_err(),
                "{code}"
            );
        }
    }
}
