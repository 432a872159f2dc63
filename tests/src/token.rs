//! Session tokens as no login gives them, signed with the installation's own key.

use anyhow::{Context, Result};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kvmoor_crds::names;
use kvmoor_dev::Cluster;
use serde_json::json;

/// A token of the user with that UID and session epoch that ends `seconds` from now, which may be before.
pub async fn ending_in(cluster: &Cluster, uid: &str, epoch: i64, seconds: i64) -> Result<String> {
    let secrets: Api<Secret> = Api::namespaced(cluster.client().await?, "kvmoor-system");
    let secret = secrets.get(names::JWT_SECRET).await?;
    let annotations = secret.metadata.annotations.context("annotations")?;
    let kid = annotations.get(names::CURRENT_KEY_ANNOTATION).context("a current key")?;
    let key = &secret.data.context("keys")?[kid].0;
    let now = Timestamp::now().as_second();
    let begin = now.min(now + seconds) - 1;
    let claims = json!({
        "iss": "kvmoor", "aud": "kvmoor-api", "sub": uid, "exp": now + seconds, "nbf": begin, "iat": begin,
        "jti": uuid::Uuid::new_v4().to_string(), "epoch": epoch,
    });
    let header = Header { kid: Some(kid.clone()), ..Header::new(Algorithm::HS256) };
    let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(key))?;
    crate::secrets::made("a token of the test's own", token.as_bytes());
    Ok(token)
}
