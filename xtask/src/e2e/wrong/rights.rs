//! Rights that are taken from the controllers, one verb of one resource after another: each is named, and given back.
//!
//! Owns the list of them, which is what the installation's own roles say. A right that two rules give is taken from both.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Wrong;

/// Those that are tried without `--long`, beside the one of [`refused_object`].
const FEW: &[&str] = &["patch gateways.gateway.networking.k8s.io/status"];

/// The roles of the release `kong` in the namespace `kong`.
const ROLES: [&str; 2] = ["clusterrole/kong:kong-controller", "-n kong role/kong-controller"];

/// One verb of one resource, as a rule of a role gives it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Verb {
    group: String,
    resource: String,
    verb: String,
    /// Whether it holds in the namespace of the release alone.
    is_local: bool,
}

impl Verb {
    /// As controllers name it.
    fn named(&self) -> String {
        let (plural, part) = self.resource.split_once('/').unwrap_or((&self.resource, ""));
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        let part = if part.is_empty() { String::new() } else { format!("/{part}") };
        let place = if self.is_local { " in namespace kong" } else { "" };
        format!("{} {plural}{group}{part}{place}", self.verb)
    }
}

pub(super) fn taken(wrong: &Wrong<'_>) -> Result<()> {
    let mut roles = Vec::new();
    for role in ROLES {
        let text = wrong.shell(&format!("kubectl get {role} -o json"))?;
        let mut role: Value = serde_json::from_str(&text)?;
        if let Some(metadata) = role["metadata"].as_object_mut() {
            metadata
                .retain(|name, _| matches!(name.as_str(), "name" | "namespace" | "labels" | "annotations"));
        }
        roles.push(role);
    }
    let everywhere = verbs(&roles[0], false);
    // What the role of the cluster says too is not gone when the other does not say it.
    let is_more = |verb: &Verb| !everywhere.iter().any(|one| Verb { is_local: true, ..one.clone() } == *verb);
    let local: Vec<Verb> = verbs(&roles[1], true).into_iter().filter(is_more).collect();
    let all: Vec<Verb> = everywhere.iter().cloned().chain(local).collect();
    ensure!(all.len() > 100, "only {} verbs are in the roles", all.len());
    let tried = all.iter().filter(|verb| wrong.long || FEW.contains(&verb.named().as_str()));
    let mut count = 0;
    for verb in tried {
        take(wrong, &roles, verb)?;
        wrong.controllers_say("kong", &format!("the API refuses: {}", verb.named()), true)?;
        count += 1;
        if !wrong.long {
            wrong.is_served()?;
        }
    }
    ensure!(wrong.long || count == FEW.len(), "only {count} of {FEW:?} are in the roles");
    println!("    {count} of {} verbs were taken and named", all.len());
    wrong.is_calm()?;
    refused_object(wrong, &roles)?;
    if wrong.long { fresh_start(wrong, &roles) } else { Ok(()) }
}

/// Every verb of a role, in the order of its rules.
fn verbs(role: &Value, is_local: bool) -> Vec<Verb> {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
    };
    let mut all = Vec::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                let of = |verb| Verb { group: group.clone(), resource: resource.clone(), verb, is_local };
                all.extend(texts(&rule["verbs"]).into_iter().map(of));
            }
        }
    }
    all
}

/// Takes one verb away, and gives back whatever was taken before.
fn take(wrong: &Wrong<'_>, roles: &[Value], verb: &Verb) -> Result<()> {
    let less: Vec<Value> = roles.iter().map(|role| without(role, verb)).collect();
    put(wrong, &less)
}

fn without(role: &Value, verb: &Verb) -> Value {
    let is_it =
        |value: &Value, text: &str| value.as_array().is_some_and(|all| all.iter().any(|one| one == text));
    let but = |value: &Value, text: &str| -> Vec<Value> {
        value.as_array().into_iter().flatten().filter(|one| *one != text).cloned().collect()
    };
    let mut rules = Vec::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        let has = is_it(&rule["apiGroups"], &verb.group)
            && is_it(&rule["resources"], &verb.resource)
            && is_it(&rule["verbs"], &verb.verb);
        if !has {
            rules.push(rule.clone());
            continue;
        }
        let mut others = rule.clone();
        others["resources"] = Value::from(but(&rule["resources"], &verb.resource));
        let mut rest = rule.clone();
        rest["resources"] = json!([verb.resource]);
        rest["verbs"] = Value::from(but(&rule["verbs"], &verb.verb));
        let is_empty = |rule: &Value| ["resources", "verbs"].iter().any(|name| rule[name] == json!([]));
        rules.extend([others, rest].into_iter().filter(|rule| !is_empty(rule)));
    }
    let mut less = role.clone();
    less["rules"] = Value::from(rules);
    less
}

fn give_back(wrong: &Wrong<'_>, roles: &[Value]) -> Result<()> {
    put(wrong, roles)
}

fn put(wrong: &Wrong<'_>, roles: &[Value]) -> Result<()> {
    let path = wrong.run.folder.join("wrong-roles.json");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": roles});
    std::fs::write(&path, list.to_string()).context("writing roles")?;
    wrong.shell(&format!("kubectl replace -f {}", path.display())).map(drop)
}

fn say_nothing(wrong: &Wrong<'_>) -> Result<()> {
    wrong.controllers_say("kong", "the API refuses", false).map(drop)
}

/// What cannot be made is told on the Gateway that it is made for, with the verb.
fn refused_object(wrong: &Wrong<'_>, roles: &[Value]) -> Result<()> {
    let verb = verbs(&roles[0], false)
        .into_iter()
        .find(|verb| verb.named() == "create deployments.apps")
        .context("no right to make Deployments")?;
    take(wrong, roles, &verb)?;
    wrong.controllers_say("kong", "create deployments.apps", true)?;
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: refused, namespace: calm}\n\
                   spec: {gatewayClassName: calm, listeners: [{name: http, port: 80, protocol: HTTP}]}\n";
    wrong.apply("refused", gateway)?;
    let words = ["Deployment calm/weir-refused cannot be written", "cannot create resource", "deployments"];
    wrong.condition("-n calm gateway/refused", "Programmed", "False", &words)?;
    wrong.is_calm()?;
    give_back(wrong, roles)?;
    wrong.condition("-n calm gateway/refused", "Programmed", "True", &[])?;
    wrong.does("kubectl delete -n calm gateway refused")?;
    say_nothing(wrong)
}

/// A controller that begins without a right is not ready and says why; those from before go on.
fn fresh_start(wrong: &Wrong<'_>, roles: &[Value]) -> Result<()> {
    let all = verbs(&roles[0], false);
    let is_it = |verb: &&Verb| verb.named() == "list backendtlspolicies.gateway.networking.k8s.io";
    take(wrong, roles, all.iter().find(is_it).context("no such right")?)?;
    wrong.does("kubectl -n kong rollout restart deployment/kong-controller")?;
    let line = wrong.of_controllers_in("kong", "readyz", "");
    let is = |said: &str| {
        said.contains("not ready: the first lists are not complete: BackendTLSPolicy; the API refuses: list backendtlspolicies")
    };
    wrong.run.cluster.until(&line, is).context("the new one says what it lacks")?;
    // It says so for as long as it lasts, and is not killed for it.
    std::thread::sleep(std::time::Duration::from_secs(70));
    wrong.is_calm()?;
    give_back(wrong, roles)?;
    wrong.does("kubectl -n kong rollout status deployment/kong-controller --timeout=120s")?;
    say_nothing(wrong)
}
