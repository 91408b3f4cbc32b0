//! `weir status`, `split`, `snapshot` and `check` by a kubeconfig, and as a plugin of `kubectl`.
//!
//! Owns what each of them has to say of a cluster in which all is well, and of one in which a route and a Gateway are wrong. The program
//! is the image's own, so that what is asked and what answers are of one release.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::Run;
use super::guides::CHART;
use crate::step;

/// How many requests are counted.
const REQUESTS: u64 = 200;

/// A route to nothing, and a Gateway that no node can have.
const WRONG: &str = include_str!("misplaced.yaml");

struct Clients<'a> {
    run: &'a Run<'a>,
    /// Folder with `weir` and `kubectl-weir`.
    programs: PathBuf,
}

/// With the release `kong` in the namespace `kong`, where the guide's Gateway, Services and route are, and nothing was asked yet.
pub(super) fn ask(run: &Run<'_>) -> Result<()> {
    let clients = Clients { run, programs: programs(&run.image, &run.folder)? };
    clients.all_is_well()?;
    clients.counts()?;
    clients.contents()?;
    clients.as_a_plugin()?;
    clients.what_is_wrong()?;
    clients.without_rights()?;
    clients.with_few_rights()?;
    clients.chart()?;
    clients.definitions()
}

/// The program out of the image, under both of its names.
fn programs(image: &Path, folder: &Path) -> Result<PathBuf> {
    let programs = folder.join("programs");
    let line = "rm -rf \"$1\" && mkdir -p \"$1/layers\" && tar -xf \"$0\" -C \"$1/layers\" blobs \
                && for layer in \"$1\"/layers/blobs/sha256/*; do tar -xzf \"$layer\" -C \"$1\" weir 2>/dev/null || true; done \
                && rm -r \"$1/layers\" && ln \"$1/weir\" \"$1/kubectl-weir\"";
    let mut command = Command::new("bash");
    command.args(["-c", line]).arg(image).arg(&programs);
    step::run("the image's program", &mut command)?;
    Ok(programs)
}

impl Clients<'_> {
    /// A line with the programs first in the path.
    fn line(&self, line: &str) -> String {
        format!("PATH={}:$PATH; {line}", self.programs.display())
    }

    fn prints(&self, line: &str) -> Result<String> {
        let printed = self.run.cluster.does(&self.line(line))?;
        for line in printed.lines() {
            println!("      {line}");
        }
        Ok(printed)
    }

    /// What a line that has to end with 1 prints.
    fn finds(&self, line: &str) -> Result<String> {
        let printed = self.prints(&format!("set +e; {line} 2>&1; echo \"ended with $?\""))?;
        let before = printed.strip_suffix("ended with 1\n");
        Ok(before.with_context(|| format!("{line} found nothing:\n{printed}"))?.to_owned())
    }

    fn all_is_well(&self) -> Result<()> {
        let status = self.prints("weir status")?;
        has_row(&status, &["Gateway", "kong/kong", "Programmed"])?;
        has_row(&status, &["HTTPRoute", "kong/echo", "Accepted"])?;
        let check = self.prints("weir check")?;
        for wanted in ["leads (Lease kong/kong-weir-leader", "is ready", "Gateway kong/kong is programmed"] {
            ensure!(check.contains(wanted), "no {wanted:?} in\n{check}");
        }
        ensure!(!check.contains("BAD"), "{check}");
        self.prints("weir check kong/kong")?;
        self.prints("weir check --namespace kong kong/kong")?;
        let elsewhere = self.finds("weir check --namespace default")?;
        ensure!(elsewhere.contains("no controller of Weir has ever led here"), "{elsewhere}");
        let tested = self.prints("helm test kong -n kong --timeout 60s")?;
        ensure!(tested.contains("Succeeded") && !tested.contains("Failed"), "{tested}");
        Ok(())
    }

    /// The counts of what was asked for are those of the route's backends, each of the rule's half.
    fn counts(&self) -> Result<()> {
        let rows = |split: &str| -> Vec<(String, String)> {
            let backend = |name: &str, row: &str| {
                let words: Vec<&str> = row.split_whitespace().collect();
                let at = words.iter().position(|word| *word == name)?;
                // BACKEND, WEIGHT, SHARE and its %, SERVED
                Some((words.get(at + 1)?.to_string(), words.get(at + 4)?.to_string()))
            };
            ["kong/echo:80", "kong/echo2:80"]
                .iter()
                .filter_map(|name| split.lines().find_map(|row| backend(name, row)))
                .collect()
        };
        let told = |served: u64| vec![("1".to_owned(), served.to_string()); 2];
        let split = self.prints("weir split")?;
        ensure!(rows(&split) == told(0), "before the first request: {:?}", rows(&split));
        let ask = format!(
            "curl -s -f -o /dev/null \"http://$(kubectl get svc -n kong kong-gateway-proxy \
             -o jsonpath='{{.status.loadBalancer.ingress[0].ip}}')/echo/hostname?[1-{REQUESTS}]\""
        );
        self.run.cluster.does(&ask)?;
        let asked = self.line("weir split");
        self.run.cluster.until(&asked, |split| rows(split) == told(REQUESTS / 2)).map(drop)
    }

    /// What the shared data plane has is what it is to have.
    fn contents(&self) -> Result<()> {
        let snapshot = self.prints("weir snapshot kong/kong-gateway-proxy")?;
        let row =
            snapshot.lines().find(|row| row.starts_with("kong/kong-gateway-proxy ")).unwrap_or_default();
        let words: Vec<&str> = row.split_whitespace().collect();
        // DATA PLANE, RESOURCES, NEWEST, POD, READY, RUNS, WAITING, REJECTED
        ensure!(words.len() == 8 && words[3].starts_with("kong-gateway-proxy-"), "{snapshot}");
        ensure!(words[4] == "yes" && words[5] == words[2] && words[6..] == ["0", "0"], "{snapshot}");
        let entries = snapshot.lines().skip_while(|row| !row.starts_with("KIND")).skip(1);
        let entries = entries.filter(|row| !row.trim().is_empty()).count().to_string();
        ensure!(entries == words[1] && entries != "0", "{entries} resources:\n{snapshot}");
        let none = self.finds("weir snapshot kong/none")?;
        ensure!(none.contains("there is no data plane kong/none"), "{none}");
        Ok(())
    }

    fn as_a_plugin(&self) -> Result<()> {
        let line = "diff <(weir status) <(kubectl weir status) && diff <(weir snapshot) <(kubectl weir snapshot) && kubectl weir check";
        self.prints(line)?;
        let named = "unset KUBECONFIG; HOME=/nonexistent; weir status --kubeconfig";
        let kubeconfig = self.run.cluster.shell("echo -n \"$KUBECONFIG\"")?;
        has_row(&self.prints(&format!("{named} {kubeconfig}"))?, &["Gateway", "kong/kong", "Programmed"])
    }

    fn what_is_wrong(&self) -> Result<()> {
        let manifest = self.run.folder.join("misplaced.yaml");
        std::fs::write(&manifest, WRONG).context("writing the objects")?;
        let cluster = self.run.cluster;
        cluster.does(&format!("kubectl apply -f {}", manifest.display()))?;
        let line = self.line("weir status || true");
        let is_told = |status: &str| {
            status.contains("ResolvedRefs=False BackendNotFound") && status.contains("kong/unplaced")
        };
        cluster.until(&line, is_told).context("what is wrong is told")?;
        let status = self.finds("weir status")?;
        has_row(&status, &["HTTPRoute", "kong/nowhere", "BackendNotFound"])?;
        let line = self.line("weir check kong/unplaced || true");
        let check = cluster.until(&line, |check| check.contains("not scheduled: ")).context("why it is")?;
        let told = [
            "Gateway kong/unplaced: ",
            "pod kong/weir-unplaced-",
            "Service kong/weir-unplaced: LoadBalancer",
        ];
        ensure!(told.iter().all(|wanted| check.contains(wanted)), "{check}");
        self.finds("weir check kong/unplaced")?;
        // What it has made stays for its log, until the next one.
        let tested = self.finds("helm test kong -n kong --timeout 60s")?;
        ensure!(tested.contains("Failed"), "{tested}");
        let log = self.run.cluster.shell("kubectl logs -n kong kong-check")?;
        ensure!(log.contains("BAD  Gateway kong/unplaced: "), "{log}");
        self.prints("weir check kong/kong")?;
        let none = self.finds("weir check kong/none")?;
        ensure!(none.contains("BAD  there is no Gateway kong/none"), "{none}");
        cluster.does(&format!("kubectl delete -f {}", manifest.display()))?;
        let gone = "kubectl get deployments -n kong weir-unplaced --ignore-not-found";
        cluster.until(gone, str::is_empty)?;
        self.prints("helm test kong -n kong --timeout 60s")?;
        let left = "kubectl get pods,serviceaccounts,roles,rolebindings -n kong -o name | grep check || true";
        cluster.until(left, str::is_empty).map(drop)
    }

    /// Who may read nothing is told what, and by whom.
    fn without_rights(&self) -> Result<()> {
        let line = "F=$(mktemp) && cp $KUBECONFIG $F && export KUBECONFIG=$F \
                    && kubectl config set-credentials nobody --token=$(kubectl create token default -n default) >/dev/null \
                    && kubectl config set-context --current --user=nobody >/dev/null";
        let check = self.finds(&format!("{line}; weir check"))?;
        for wanted in ["the Leases of Weir's controllers cannot be read", "Gateways cannot be read"] {
            ensure!(check.contains(wanted), "no {wanted:?} in\n{check}");
        }
        for (command, kind) in [("status", "gateways"), ("split", "leases"), ("snapshot", "leases")] {
            let said = self.finds(&format!("{line}; weir {command}"))?;
            let named = format!("weir: listing {kind}: {kind}.");
            ensure!(said.starts_with(&named) && said.lines().count() == 1, "no {named:?}: {said}");
        }
        Ok(())
    }

    /// Who may see one installation and no other asks that one.
    fn with_few_rights(&self) -> Result<()> {
        let cluster = self.run.cluster;
        for line in [
            "kubectl create serviceaccount asker -n kong",
            "kubectl create role asker -n kong --verb=list --resource=leases.coordination.k8s.io",
            "kubectl create role asker-ask -n kong --verb=get --resource=pods/proxy",
            "kubectl create rolebinding asker -n kong --role=asker --serviceaccount=kong:asker",
            "kubectl create rolebinding asker-ask -n kong --role=asker-ask --serviceaccount=kong:asker",
        ] {
            cluster.does(line)?;
        }
        // In a context of its own, which is not the one that holds.
        let line = "F=$(mktemp) && cp $KUBECONFIG $F && export KUBECONFIG=$F \
                    && kubectl config set-credentials asker --token=$(kubectl create token asker -n kong) >/dev/null \
                    && kubectl config set-context asker --user=asker \
                       --cluster=$(kubectl config view --minify -o jsonpath='{.contexts[0].context.cluster}') >/dev/null";
        let split = self.prints(&format!("{line}; kubectl weir split -n kong --context asker"))?;
        ensure!(split.contains("kong/echo:80"), "{split}");
        let snapshot = self.prints(&format!("{line}; weir snapshot -n kong --context asker"))?;
        ensure!(snapshot.contains("kong/kong-gateway-proxy"), "{snapshot}");
        let all = self.finds(&format!("{line}; weir split --context asker"))?;
        ensure!(all.starts_with("weir: listing leases: leases."), "{all}");
        let elsewhere = self.finds("weir split -n default")?;
        ensure!(elsewhere.contains("no controller of Weir has ever led in namespace default"), "{elsewhere}");
        let all = "serviceaccount/asker role/asker role/asker-ask rolebinding/asker rolebinding/asker-ask";
        cluster.does(&format!("kubectl delete -n kong {all}")).map(drop)
    }

    /// Definitions that the chart has made are changed by the documents' line.
    fn definitions(&self) -> Result<()> {
        let crds = format!("{CHART}/crds");
        let description = r#"[{"op":"replace","path":"/spec/versions/0/schema/openAPIV3Schema/description","value":"Changed."}]"#;
        let changed = format!(
            "F=$(mktemp) && kubectl patch --local -f {crds}/weir.dev_gatewayparameters.yaml --type=json -p '{description}' -o yaml >$F"
        );
        let apply = "kubectl apply --server-side --force-conflicts -f";
        self.run.cluster.does(&format!("{changed}; {apply} $F"))?;
        let says = "kubectl get crd gatewayparameters.weir.dev -o jsonpath='{.spec.versions[0].schema.openAPIV3Schema.description}'";
        self.run.cluster.says(says, "Changed.")?;
        let line =
            format!("{apply} {crds}/weir.dev_gatewayparameters.yaml -f {crds}/weir.dev_backendpolicies.yaml");
        self.run.cluster.does(&line).map(drop)
    }

    /// What the chart renders, in the ways in which it is installed, is what the API takes.
    fn chart(&self) -> Result<()> {
        for values in CHARTS {
            let line = format!(
                "F=$(mktemp) && helm template other {CHART} -n default --skip-tests {values} >$F \
                 && kubectl apply --dry-run=server -f $F >$F.taken && grep -c '^kind:' $F && wc -l <$F.taken"
            );
            let counts = self.run.cluster.does(&line)?;
            let same: Vec<&str> = counts.lines().map(str::trim).collect();
            ensure!(same.len() == 2 && same[0] == same[1], "{values}: rendered and taken: {same:?}");
        }
        let refused = self.finds(&format!("helm template other {CHART} --set controler.replicas=1"))?;
        ensure!(refused.contains("controler"), "{refused}");
        Ok(())
    }
}

/// Values that render other objects.
const CHARTS: &[&str] = &[
    "",
    "--set gatewayProxy.replicas=3,gatewayProxy.autoscaling.enabled=true,takeOver=true",
    "--set gatewayProxy.enabled=false,networkPolicy.enabled=false,podDisruptionBudget.enabled=false",
    "--set watchNamespaces={kong}",
    "--set gatewayProxy.service.loadBalancerIP=192.0.2.1,gatewayProxy.service.loadBalancerSourceRanges={192.0.2.0/24},imagePullSecrets={a}",
];

/// A row that begins with the first two words, and has the third.
fn has_row(table: &str, words: &[&str; 3]) -> Result<()> {
    let [kind, name, state] = words;
    let is_row = |row: &&str| row.split_whitespace().take(2).eq([*kind, *name]);
    let row = table.lines().find(is_row).with_context(|| format!("no {kind} {name} in\n{table}"))?;
    ensure!(row.contains(state), "not {state}: {row}");
    Ok(())
}
