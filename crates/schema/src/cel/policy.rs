//! `ValidatingAdmissionPolicy` and its bindings: which requests a policy is about, and what it says to them.

use std::cell::OnceCell;
use std::fmt;

use serde_json::{Value, json};

use super::ast::Expr;
use super::eval::{EVALUATION_LIMIT, Fault, Meter, Roots, evaluate};
use super::parse::{Environment, parse};
use super::value::{Val, lift};
use crate::field::{FieldError, FieldErrorKind, Path};

const ROOTS: [&str; 5] = ["object", "oldObject", "request", "params", "namespaceObject"];

/// What a request does. `Connect` never reaches objects and is here for completeness of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A changed object; patches too.
    Update,
    /// An object goes.
    Delete,
    /// A connection to a subresource such as `exec`.
    Connect,
}

impl Operation {
    /// As it is written in rules and in `request.operation`.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// One request on its way to storage.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// What it does.
    pub operation: Operation,
    /// API group of the resource; empty for the core group.
    pub group: &'a str,
    /// Version in the request.
    pub version: &'a str,
    /// Plural name of the resource.
    pub resource: &'a str,
    /// `status`, `scale`, ...; empty for the resource itself.
    pub subresource: &'a str,
    /// Kind of the object.
    pub kind: &'a str,
    /// Namespace; empty for cluster-scoped resources.
    pub namespace: &'a str,
    /// Name; may be empty on create with `generateName`.
    pub name: &'a str,
    /// The object as it would be stored; `None` on delete.
    pub object: Option<&'a Value>,
    /// The object as it is stored; `None` on create.
    pub old_object: Option<&'a Value>,
    /// The Namespace object of `namespace`.
    pub namespace_object: Option<&'a Value>,
    /// `userInfo` of the request; null when unknown.
    pub user: &'a Value,
    /// Whether nothing will be stored.
    pub dry_run: bool,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Name of the policy.
    pub policy: String,
    /// Name of its binding.
    pub binding: String,
    /// What the validation says.
    pub message: String,
    /// `Invalid`, `Forbidden`, `Unauthorized` or `RequestEntityTooLarge`.
    pub reason: String,
}

impl Denial {
    /// The HTTP status code of the reason.
    pub fn code(&self) -> u16 {
        match self.reason.as_str() {
            "Unauthorized" => 401,
            "Forbidden" => 403,
            "RequestEntityTooLarge" => 413,
            _ => 422,
        }
    }

    /// The `Status` that answers the request.
    pub fn status(&self, request: &Attributes<'_>) -> Value {
        let group = if request.group.is_empty() { String::new() } else { format!(".{}", request.group) };
        json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": format!("{}{group} \"{}\" is forbidden: {self}", request.resource, request.name),
            "reason": self.reason,
            "details": {
                "name": request.name,
                "group": request.group,
                "kind": request.resource,
                "causes": [{ "message": self.message }],
            },
            "code": self.code(),
        })
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {}",
            self.policy, self.binding, self.message
        )
    }
}

/// What a policy says to a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Refusals; none admits the request.
    pub denials: Vec<Denial>,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
}

/// A compiled policy.
#[derive(Debug)]
pub struct Policy {
    name: String,
    fail_open: bool,
    scope: Matcher,
    conditions: Vec<Program>,
    variables: Vec<(String, Program)>,
    validations: Vec<Validation>,
    wants_params: bool,
}

#[derive(Debug)]
struct Program {
    source: String,
    expr: Expr,
}

#[derive(Debug)]
struct Validation {
    program: Program,
    message: Option<String>,
    message_expression: Option<Program>,
    reason: String,
}

impl Policy {
    /// Compiles a `ValidatingAdmissionPolicy` object. Errors name fields from the object's root.
    pub fn compile(policy: &Value) -> Result<Policy, Vec<FieldError>> {
        let spec = &policy["spec"];
        let mut errors = Vec::new();
        let root = Path::Root;
        let at = root.field("spec");
        let mut names = Vec::new();
        let mut variables = Vec::new();
        for (index, variable) in list(spec, "variables").iter().enumerate() {
            let path = at.field("variables");
            let Some(name) = variable["name"].as_str() else {
                errors.push(FieldError::new(path.index(index).field("name"), FieldErrorKind::Required, ""));
                continue;
            };
            // A variable sees those before it.
            if let Some(program) = expression(variable, "expression", &path.index(index), &names, &mut errors)
            {
                variables.push((name.to_owned(), program));
            }
            names.push(name.to_owned());
        }
        let conditions = list(spec, "matchConditions")
            .iter()
            .enumerate()
            .filter_map(|(index, condition)| {
                let path = at.field("matchConditions");
                expression(condition, "expression", &path.index(index), &names, &mut errors)
            })
            .collect();
        let mut validations = Vec::new();
        for (index, validation) in list(spec, "validations").iter().enumerate() {
            let path = at.field("validations");
            let path = path.index(index);
            let Some(program) = expression(validation, "expression", &path, &names, &mut errors) else {
                continue;
            };
            let message_expression = validation
                .get("messageExpression")
                .and_then(|_| expression(validation, "messageExpression", &path, &names, &mut errors));
            validations.push(Validation {
                program,
                message: validation["message"]
                    .as_str()
                    .map(|text| text.trim().to_owned())
                    .filter(|t| !t.is_empty()),
                message_expression,
                reason: validation["reason"].as_str().unwrap_or("Invalid").to_owned(),
            });
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Policy {
            name: policy["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            fail_open: spec["failurePolicy"] == "Ignore",
            scope: Matcher::read(&spec["matchConstraints"]),
            conditions,
            variables,
            validations,
            wants_params: spec["paramKind"].is_object(),
        })
    }

    /// Name of the policy.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the policy is about this request. Its `matchConditions` are a part of [`judge`](Self::judge).
    pub fn matches(&self, request: &Attributes<'_>) -> bool {
        self.scope.admits(request)
    }

    /// Whether `binding` applies the policy to this request.
    pub fn applies(&self, binding: &Binding, request: &Attributes<'_>) -> bool {
        binding.policy == self.name
            && self.matches(request)
            && binding.scope.as_ref().is_none_or(|scope| scope.admits(request))
    }

    /// Judges a request that [`applies`](Self::applies) says yes to. `params` are the objects that the binding's
    /// `paramRef` names, found by the caller; the policy is judged once for each.
    pub fn judge(&self, binding: &Binding, request: &Attributes<'_>, params: &[&Value]) -> Decision {
        let mut decision = Decision::default();
        let shown = request_value(request);
        if !self.wants_params {
            self.judge_once(binding, request, &shown, None, &mut decision);
            return decision;
        }
        if params.is_empty() && binding.deny_without_params {
            let message = "failed to configure binding: no params found for policy binding with `Deny` \
                           parameterNotFoundAction";
            self.answer(binding, message.to_owned(), "Invalid", &mut decision);
        }
        for params in params {
            self.judge_once(binding, request, &shown, Some(params), &mut decision);
        }
        decision
    }

    fn judge_once(
        &self,
        binding: &Binding,
        request: &Attributes<'_>,
        shown: &Value,
        params: Option<&Value>,
        decision: &mut Decision,
    ) {
        let roots = PolicyRoots {
            object: request.object,
            old_object: request.old_object,
            namespace_object: request.namespace_object,
            request: shown,
            params,
            variables: self
                .variables
                .iter()
                .map(|(name, program)| Variable { name, program, result: OnceCell::new() })
                .collect(),
        };
        match self.conditions_hold(&roots) {
            Ok(false) => return,
            Ok(true) => {}
            Err(message) => {
                if !self.fail_open {
                    self.answer(binding, message, "Invalid", decision);
                }
                return;
            }
        }
        for validation in &self.validations {
            match run(&validation.program, &roots) {
                Ok(Val::Bool(true)) => {}
                Ok(Val::Bool(false)) => {
                    let message = validation.text(&roots);
                    self.answer(binding, message, &validation.reason, decision);
                }
                Ok(_) | Err(_) if self.fail_open => {}
                Ok(other) => {
                    let message = format!(
                        "expression '{}' resulted in a {} instead of a bool",
                        validation.program.source,
                        other.type_name()
                    );
                    self.answer(binding, message, "Invalid", decision);
                }
                Err(fault) => {
                    let message =
                        format!("expression '{}' resulted in error: {fault}", validation.program.source);
                    self.answer(binding, message, "Invalid", decision);
                }
            }
        }
    }

    /// One condition that is false is enough to leave the request alone; an error counts only without one.
    fn conditions_hold<'v>(&'v self, roots: &PolicyRoots<'v>) -> Result<bool, String> {
        let mut failed = None;
        for condition in &self.conditions {
            match run(condition, roots) {
                Ok(Val::Bool(true)) => {}
                Ok(Val::Bool(false)) => return Ok(false),
                Ok(_) => failed = failed.or(Some(format!("expression '{}' is not a bool", condition.source))),
                Err(fault) => {
                    failed = failed
                        .or(Some(format!("expression '{}' resulted in error: {fault}", condition.source)));
                }
            }
        }
        failed.map_or(Ok(true), Err)
    }

    fn answer(&self, binding: &Binding, message: String, reason: &str, decision: &mut Decision) {
        if binding.warn {
            decision.warnings.push(format!(
                "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {message}",
                self.name, binding.name
            ));
        }
        if binding.deny {
            decision.denials.push(Denial {
                policy: self.name.clone(),
                binding: binding.name.clone(),
                message,
                reason: reason.to_owned(),
            });
        }
    }
}

impl Validation {
    fn text<'v>(&'v self, roots: &PolicyRoots<'v>) -> String {
        if let Some(program) = &self.message_expression
            && let Ok(Val::Text(text)) = run(program, roots)
        {
            let text = text.trim();
            if !text.is_empty() && !text.contains('\n') {
                return text.to_owned();
            }
        }
        match &self.message {
            Some(message) => message.clone(),
            None => format!("failed expression: {}", self.program.source),
        }
    }
}

fn run<'v>(program: &'v Program, roots: &PolicyRoots<'v>) -> Result<Val<'v>, Fault> {
    evaluate(&program.expr, roots, &Meter::new(EVALUATION_LIMIT))
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn expression(
    holder: &Value,
    key: &str,
    path: &Path<'_>,
    variables: &[String],
    errors: &mut Vec<FieldError>,
) -> Option<Program> {
    let Some(source) = holder[key].as_str().map(str::trim).filter(|source| !source.is_empty()) else {
        errors.push(FieldError::new(path.field(key), FieldErrorKind::Required, ""));
        return None;
    };
    match parse(source, Environment { roots: &ROOTS, variables: Some(variables) }) {
        Ok(expr) => Some(Program { source: source.to_owned(), expr }),
        Err(error) => {
            let detail = format!("compilation failed: {error}");
            errors.push(FieldError::with_value(
                path.field(key),
                FieldErrorKind::Invalid,
                &source.into(),
                detail,
            ));
            None
        }
    }
}

/// The `request` variable.
fn request_value(request: &Attributes<'_>) -> Value {
    let kind = json!({ "group": request.group, "version": request.version, "kind": request.kind });
    let resource =
        json!({ "group": request.group, "version": request.version, "resource": request.resource });
    let mut shown = json!({
        "kind": kind,
        "resource": resource,
        "requestKind": kind,
        "requestResource": resource,
        "name": request.name,
        "namespace": request.namespace,
        "operation": request.operation.name(),
        "userInfo": if request.user.is_null() { json!({}) } else { request.user.clone() },
        "dryRun": request.dry_run,
    });
    if !request.subresource.is_empty() {
        shown["subResource"] = request.subresource.into();
        shown["requestSubResource"] = request.subresource.into();
    }
    shown
}

struct PolicyRoots<'v> {
    object: Option<&'v Value>,
    old_object: Option<&'v Value>,
    namespace_object: Option<&'v Value>,
    request: &'v Value,
    params: Option<&'v Value>,
    variables: Vec<Variable<'v>>,
}

/// A variable of the policy, evaluated when it is first asked for.
struct Variable<'v> {
    name: &'v str,
    program: &'v Program,
    result: OnceCell<Result<Val<'v>, Fault>>,
}

impl<'v> Roots<'v> for PolicyRoots<'v> {
    fn root(&self, name: &str) -> Option<Val<'v>> {
        let value = match name {
            "object" => self.object,
            "oldObject" => self.old_object,
            "namespaceObject" => self.namespace_object,
            "request" => Some(self.request),
            "params" => self.params,
            _ => return None,
        };
        Some(value.map_or(Val::Null, |value| lift(value, None)))
    }

    fn variable(&self, name: &str, meter: &Meter) -> Result<Val<'v>, Fault> {
        let Some(Variable { program, result: cell, .. }) =
            self.variables.iter().find(|variable| variable.name == name)
        else {
            return Err(Fault::Error(format!("no such key: {name}")));
        };
        if let Some(result) = cell.get() {
            return result.clone();
        }
        let result = evaluate(&program.expr, self, meter).map_err(|fault| match fault {
            Fault::Exhausted => Fault::Exhausted,
            Fault::Error(error) => {
                Fault::Error(format!("composited variable \"{name}\" fails to evaluate: {error}"))
            }
        });
        cell.get_or_init(|| result).clone()
    }
}

/// A compiled `ValidatingAdmissionPolicyBinding`.
#[derive(Debug)]
pub struct Binding {
    name: String,
    policy: String,
    scope: Option<Matcher>,
    deny: bool,
    warn: bool,
    deny_without_params: bool,
    param_ref: Option<Value>,
}

impl Binding {
    /// Reads a `ValidatingAdmissionPolicyBinding` object.
    pub fn read(binding: &Value) -> Binding {
        let spec = &binding["spec"];
        let action = |name: &str| list(spec, "validationActions").iter().any(|action| action == name);
        Binding {
            name: binding["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            policy: spec["policyName"].as_str().unwrap_or_default().to_owned(),
            scope: spec["matchResources"].is_object().then(|| Matcher::read(&spec["matchResources"])),
            deny: action("Deny"),
            warn: action("Warn"),
            deny_without_params: spec["paramRef"]["parameterNotFoundAction"] != "Allow",
            param_ref: spec.get("paramRef").filter(|reference| reference.is_object()).cloned(),
        }
    }

    /// Name of the policy that it binds.
    pub fn policy(&self) -> &str {
        &self.policy
    }

    /// `spec.paramRef`, for the caller to resolve.
    pub fn param_ref(&self) -> Option<&Value> {
        self.param_ref.as_ref()
    }
}

/// `matchConstraints` and `matchResources`.
#[derive(Debug)]
struct Matcher {
    namespaces: Value,
    objects: Value,
    rules: Vec<ResourceRule>,
    excluded: Vec<ResourceRule>,
    /// Any version of a resource is as good as the one that a rule names.
    any_version: bool,
    /// Without rules a binding is as wide as its policy.
    wide: bool,
}

#[derive(Debug)]
struct ResourceRule {
    groups: Vec<String>,
    versions: Vec<String>,
    operations: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    scope: String,
}

impl Matcher {
    fn read(spec: &Value) -> Matcher {
        let rules = |key: &str| list(spec, key).iter().map(ResourceRule::read).collect::<Vec<_>>();
        Matcher {
            namespaces: spec["namespaceSelector"].clone(),
            objects: spec["objectSelector"].clone(),
            rules: rules("resourceRules"),
            excluded: rules("excludeResourceRules"),
            any_version: spec["matchPolicy"] != "Exact",
            wide: list(spec, "resourceRules").is_empty(),
        }
    }

    fn admits(&self, request: &Attributes<'_>) -> bool {
        // Policies cannot lock themselves in.
        if request.group == "admissionregistration.k8s.io" && request.resource.contains("admissionpolic") {
            return false;
        }
        let covers = |rules: &[ResourceRule]| rules.iter().any(|rule| rule.covers(request, self.any_version));
        (self.wide || covers(&self.rules))
            && !covers(&self.excluded)
            && self.namespace_matches(request)
            && self.object_matches(request)
    }

    /// Cluster-scoped objects match any namespace selector, a Namespace is matched by its own labels.
    fn namespace_matches(&self, request: &Attributes<'_>) -> bool {
        if self.namespaces.is_null() {
            return true;
        }
        let own = request.group.is_empty() && request.resource == "namespaces";
        let namespace = if own { request.object.or(request.old_object) } else { request.namespace_object };
        if !own && request.namespace.is_empty() {
            return true;
        }
        selector_matches(
            &self.namespaces,
            namespace.map_or(&Value::Null, |namespace| &namespace["metadata"]["labels"]),
        )
    }

    fn object_matches(&self, request: &Attributes<'_>) -> bool {
        self.objects.as_object().is_none_or(serde_json::Map::is_empty)
            || [request.object, request.old_object]
                .into_iter()
                .flatten()
                .any(|object| selector_matches(&self.objects, &object["metadata"]["labels"]))
    }
}

impl ResourceRule {
    fn read(rule: &Value) -> ResourceRule {
        let texts = |key: &str| {
            list(rule, key).iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
        };
        ResourceRule {
            groups: texts("apiGroups"),
            versions: texts("apiVersions"),
            operations: texts("operations"),
            resources: texts("resources"),
            names: texts("resourceNames"),
            scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
        }
    }

    fn covers(&self, request: &Attributes<'_>, any_version: bool) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|entry| entry == "*" || entry == wanted);
        let scope = match self.scope.as_str() {
            "Cluster" => request.namespace.is_empty(),
            "Namespaced" => !request.namespace.is_empty(),
            _ => true,
        };
        scope
            && has(&self.groups, request.group)
            && (any_version || has(&self.versions, request.version))
            && has(&self.operations, request.operation.name())
            && self
                .resources
                .iter()
                .any(|entry| resource_matches(entry, request.resource, request.subresource))
            && (self.names.is_empty() || self.names.iter().any(|name| name == request.name))
    }
}

/// `*`, `pods`, `*/*`, `pods/*`, `*/scale`, `pods/log`. A name without a slash says nothing about subresources.
fn resource_matches(entry: &str, resource: &str, subresource: &str) -> bool {
    match entry.split_once('/') {
        None => subresource.is_empty() && (entry == "*" || entry == resource),
        Some(("*", "*")) => true,
        Some((of, sub)) => {
            (of == "*" || of == resource)
                && if sub == "*" { true } else { !subresource.is_empty() && sub == subresource }
        }
    }
}

/// Whether a `metav1.LabelSelector` selects labels (a JSON object or null). An empty selector selects everything.
pub fn selector_matches(selector: &Value, labels: &Value) -> bool {
    let label = |key: &str| labels.get(key).and_then(Value::as_str);
    let equal = match selector.get("matchLabels").and_then(Value::as_object) {
        Some(wanted) => {
            wanted.iter().all(|(key, value)| value.as_str().is_some() && label(key) == value.as_str())
        }
        None => true,
    };
    equal
        && list(selector, "matchExpressions").iter().all(|requirement| {
            let found = requirement["key"].as_str().and_then(label);
            let among =
                || found.is_some_and(|value| list(requirement, "values").iter().any(|one| one == value));
            match requirement["operator"].as_str() {
                Some("In") => among(),
                Some("NotIn") => !among(),
                Some("Exists") => found.is_some(),
                Some("DoesNotExist") => found.is_none(),
                _ => false,
            }
        })
}
