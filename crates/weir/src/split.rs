//! `weir split`: weights asked for beside requests served, rule by rule.

use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cli::SplitOptions;
use crate::client;

pub(crate) fn run(options: &SplitOptions) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answers = runtime.block_on(client::ask(&options.client, options.namespace.as_deref(), "splits"))?;
    let mut rules = Vec::new();
    for body in answers {
        let mut splits: Value =
            serde_json::from_slice(&body).context("the admin port's answer to /splits")?;
        rules.extend(splits["rules"].as_array_mut().map(std::mem::take).unwrap_or_default());
        if let Some(note) = missing(&splits) {
            eprintln!("{note}");
        }
    }
    if rules.is_empty() {
        println!("No rule has backends yet.");
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", client::table(&rows(&rules)));
    Ok(ExitCode::SUCCESS)
}

/// In a cluster: that not every pod with a data plane is in the table.
fn missing(splits: &Value) -> Option<String> {
    let (asked, answered) = (splits["asked"].as_u64()?, splits["answered"].as_u64()?);
    (answered < asked).then(|| {
        format!("note: {answered} of {asked} data plane pods answered within two seconds; the table lacks the others")
    })
}

fn rows(rules: &[Value]) -> Vec<Vec<String>> {
    let head = ["ROUTE", "RULE", "BACKEND", "WEIGHT", "SHARE", "SERVED", "EXPECTED", "MAX DEVIATION"];
    // In a cluster each pod counts for itself.
    let has_instances = rules.iter().any(|rule| rule["instance"].is_string());
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    if has_instances {
        rows[0].push("DATA PLANE POD".to_owned());
    }
    for rule in rules {
        let total: f64 = backends(rule).iter().map(|backend| number(&backend["weight"])).sum();
        let tickets = number(&rule["tickets"]);
        for (index, backend) in backends(rule).iter().enumerate() {
            let first = index == 0;
            let share = if total > 0.0 { number(&backend["weight"]) / total } else { 0.0 };
            let cell = |show: bool, text: String| if show { text } else { String::new() };
            let mut name = text(&backend["backend"]);
            if let Some(reason) = backend["invalid"].as_str().filter(|reason| !reason.is_empty()) {
                name = format!("{name} ({reason})");
            }
            rows.push(vec![
                cell(first, text(&rule["route"])),
                cell(first, text(&rule["rule"])),
                name,
                text(&backend["weight"]),
                format!("{:.2} %", share * 100.0),
                text(&backend["served"]),
                format!("{:.1}", share * tickets),
                cell(first, format!("{:.3}", number(&rule["maxDeviation"]))),
            ]);
            if let (true, Some(row)) = (has_instances && first, rows.last_mut()) {
                row.push(text(&rule["instance"]));
            }
        }
    }
    rows
}

fn backends(rule: &Value) -> &[Value] {
    rule["backends"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_that_did_not_answer_are_told_of() {
        assert_eq!(missing(&json!({"rules": []})), None, "a data plane of this process");
        assert_eq!(missing(&json!({"asked": 3, "answered": 3})), None);
        assert!(
            missing(&json!({"asked": 3, "answered": 2})).unwrap().starts_with("note: 2 of 3 data plane pods")
        );
    }

    #[test]
    fn each_backend_has_a_row_with_what_it_should_have_served() {
        let rules = json!([{"route": "default/echo", "rule": "0", "tickets": 200, "maxDeviation": 0.667, "backends": [
            {"backend": "default/echo:80", "weight": 2, "served": 133, "invalid": ""},
            {"backend": "default/none:80", "weight": 1, "served": 67, "invalid": "BackendNotFound"},
        ]}]);
        let rows = rows(rules.as_array().unwrap());
        assert_eq!(
            rows[1],
            ["default/echo", "0", "default/echo:80", "2", "66.67 %", "133", "133.3", "0.667"]
        );
        assert_eq!(rows[2][2], "default/none:80 (BackendNotFound)");
        assert_eq!(rows[2][6], "66.7");
    }
}
