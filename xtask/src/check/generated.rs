//! Generated files are what their generator makes of its source today.
//!
//! Deliberately absent: the schemas of the built-in kinds, whose source is a running Kubernetes; the room that owns
//! them tests that they are whole.

use anyhow::Result;

use super::{Context, Report};
use crate::{api, crds, deploy, kinds, upstream};

pub(super) fn check(context: &Context<'_>, report: &mut Report) -> Result<()> {
    if let Err(error) = kinds::generate(context.root, true) {
        report.finding(format!("{error:#}; make them anew with `cargo xtask codegen kinds`"));
    }
    match upstream::crds(context.root) {
        Ok(source) => {
            if let Err(error) = crds::generate(context.root, &source, true) {
                report.finding(format!("{error:#}; make them anew with `cargo xtask codegen crds`"));
            }
        }
        Err(error) => report.left_out(format!("embedded CRDs held equal to the published ones: {error:#}")),
    }
    if let Err(error) = api::generate(context.root, true) {
        report.finding(format!("{error:#}; make them anew with `cargo xtask codegen api`"));
    }
    if let Err(error) = deploy::base_is_whole(context.root) {
        report.finding(format!("{error:#}"));
    }
    match deploy::helm() {
        Ok(_) => {
            if let Err(error) = deploy::generate(context.root, true) {
                report.finding(format!("{error:#}; make it anew with `cargo xtask codegen deploy`"));
            }
            if let Err(error) = deploy::try_chart(context.root) {
                report.finding(format!("{error:#}"));
            }
        }
        Err(error) => report.left_out(format!("the chart, and deploy/weir.yaml held equal to it: {error:#}")),
    }
    Ok(())
}
