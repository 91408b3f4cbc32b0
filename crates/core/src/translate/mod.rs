//! Translation.

use crate::objects::{ObjectKey, Objects};
use crate::output::Output;

/// Settings of a [`Translator`].
#[derive(Clone, Debug, Default)]
pub struct TranslateConfig {
    /// Names of Gateway API features for the status of GatewayClasses; empty: not written.
    pub supported_features: Vec<String>,
}

/// Turns objects into resources, statuses and diagnostics, a change at a time.
#[derive(Debug)]
pub struct Translator {
    config: TranslateConfig,
}

impl Translator {
    pub fn new(config: TranslateConfig) -> Translator {
        Translator { config }
    }

    /// `changed` names what was upserted, removed, confirmed absent, waived or given addresses since the last call;
    /// naming too much costs time only.
    pub fn translate(&mut self, objects: &Objects, changed: &[ObjectKey]) -> Output {
        let _ = (objects, changed, &self.config);
        Output::default()
    }
}
