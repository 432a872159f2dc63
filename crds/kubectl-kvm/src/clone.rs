//! Clones, as custom resources.

use anyhow::{Context as _, Result, bail};
use kube::api::PostParams;
use kvmoor_crds::{CloneSource, VirtualMachine, VirtualMachineSnapshot, VirtualMachineSpec, clone};
use serde_json::{Map, Value, json};

use crate::args::CloneArgs;
use crate::cluster::{Namespace, wait};
use crate::power;

/// Makes a clone, and waits until it runs or, if so asked, is there.
pub async fn run(namespace: &Namespace, args: &CloneArgs) -> Result<()> {
    let CloneArgs { vm, name, snapshot, class, stopped, wait: patience } = args;
    let source = namespace.vm(vm).await?;
    clone::check(&source)?;
    if let Some(name) = snapshot {
        // That it is not there is said here, rather than by a condition that says that it is waited for.
        let found =
            namespace.api::<VirtualMachineSnapshot>().get_opt(name).await.context("cannot read the snapshot")?;
        match found {
            Some(snapshot) if snapshot.spec.vm_name == *vm => {}
            Some(other) => bail!("snapshot {name} is one of {}, not of {vm}", other.spec.vm_name),
            None => bail!("there is no snapshot {name}"),
        }
    }
    let of = CloneSource { vm_name: vm.clone(), snapshot_name: snapshot.clone() };
    let spec = clone::complete(of, &source.spec, asked(&source.spec, class.as_deref(), *stopped)?);
    let api = namespace.api::<VirtualMachine>();
    let made = api.create(&PostParams::default(), &VirtualMachine::new(name, spec)).await;
    let generation = made.context("cannot create the clone")?.metadata.generation.unwrap_or_default();
    wait(&api, name, patience, |vm| power::judge(vm, generation)).await
}

/// What a clone has that is not simply its source's: its power state, and the size and the keys if nothing else is said.
fn asked(source: &VirtualMachineSpec, class: Option<&str>, stopped: bool) -> Result<VirtualMachineSpec> {
    let mut asked = Map::new();
    match class.or(source.class_name.as_deref()) {
        Some(class) => asked.extend([("className".to_owned(), json!(class))]),
        None => {
            asked.extend([("cpu".to_owned(), json!(source.cpu)), ("memory".to_owned(), json!(source.memory))]);
        }
    }
    if let Some(cloud_init) = &source.cloud_init {
        asked.insert("cloudInit".to_owned(), json!({ "sshAuthorizedKeys": cloud_init.ssh_authorized_keys }));
    }
    asked.insert("powerState".to_owned(), json!(if stopped { "Stopped" } else { "Running" }));
    // Through JSON, so that everything else has the default that the schema has.
    serde_json::from_value(Value::Object(asked)).context("cannot take over the size")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_the_sources_unless_a_class_is_named() {
        let of = |source: Value, class, stopped| {
            let spec = asked(&serde_json::from_value(source).unwrap(), class, stopped).unwrap();
            let spec = serde_json::to_value(spec).unwrap();
            ["className", "cpu", "memory", "cloudInit", "powerState"].map(|field| spec[field].clone())
        };
        let keys = json!({ "sshAuthorizedKeys": ["k"], "userDataSecretRef": { "name": "s" } });
        let numbers = json!({ "cpu": 2, "memory": "1Gi", "cloudInit": keys });
        let kept = json!({ "sshAuthorizedKeys": ["k"] });
        assert_eq!(
            of(numbers.clone(), None, false),
            [Value::Null, json!(2), json!("1Gi"), kept.clone(), json!("Running")]
        );
        assert_eq!(
            of(numbers, Some("large"), true),
            [json!("large"), Value::Null, Value::Null, kept, json!("Stopped")]
        );
        let classed = of(json!({ "className": "small" }), None, false);
        assert_eq!(classed, [json!("small"), Value::Null, Value::Null, Value::Null, json!("Running")]);
    }
}
