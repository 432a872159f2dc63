//! Session tokens and tickets: JWT signed with HS256, by keys that have ids and can be replaced one by one.
//!
//! A token names its user by UID, so that a new user of an old name is somebody else, and carries the user's session
//! epoch, by which all of a user's sessions end at once. The role is not in it: it is looked up at each request.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use k8s_openapi::api::core::v1::Secret;
use kvmoor_crds::names::CURRENT_KEY_ANNOTATION;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How long a session lasts.
pub const LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);
/// By how much clocks of replicas may differ.
pub const LEEWAY: Duration = Duration::from_secs(10);
/// Fewest bytes of a key: as many as the hash has.
const MIN_KEY_BYTES: usize = 32;
const ISSUER: &str = "kvmoor";
const AUDIENCE: &str = "kvmoor-api";
/// How long a ticket may wait to be used.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(30);
/// A ticket is no session token and a session token no ticket.
const TICKET_AUDIENCE: &str = "kvmoor-socket";

/// What a token says. All of it is required, with exactly these types.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Claims {
    /// Issuer.
    pub iss: String,
    /// Audience.
    pub aud: String,
    /// UID of the User.
    pub sub: String,
    /// End, in seconds since 1970.
    pub exp: i64,
    /// Begin, in seconds since 1970.
    pub nbf: i64,
    /// When it was issued, in seconds since 1970.
    pub iat: i64,
    /// Unique for each token.
    pub jti: String,
    /// The user's session epoch when it was issued.
    pub epoch: i64,
}

/// What a ticket says. All of it is required, with exactly these types.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct TicketClaims {
    /// What it has in common with the session that asked for it; its end is until when it can be used.
    #[serde(flatten)]
    pub common: Claims,
    /// When that session ends, and with it what the ticket opened.
    pub until: i64,
    /// UID of the virtual machine that it is for; empty for the feed of all.
    pub vm: String,
}

/// Why a token is not taken, or none can be made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The keys name none to sign with.
    #[error("the Secret with the signing keys names no current key of at least 32 bytes")]
    NoCurrentKey,
    /// Signed with a key that is not known here.
    #[error("signed with an unknown key")]
    UnknownKey,
    /// Not a token, not signed by us, expired, or without a claim.
    #[error("invalid token")]
    Invalid(#[source] jsonwebtoken::errors::Error),
    /// The header or the claims are not such as we make.
    #[error("not a token of ours: {0}")]
    Foreign(&'static str),
}

/// The signing keys, by key id.
#[derive(Default)]
pub struct Keyring {
    current: Option<String>,
    keys: BTreeMap<String, (EncodingKey, DecodingKey)>,
}

impl Keyring {
    /// The keys of the Secret. Too short ones are left out, with a warning.
    pub fn from_secret(secret: &Secret) -> Self {
        let mut keys = BTreeMap::new();
        for (id, bytes) in secret.data.iter().flatten() {
            if bytes.0.len() < MIN_KEY_BYTES {
                tracing::warn!(key = id, "left out a signing key with fewer than 32 bytes");
                continue;
            }
            let pair = (EncodingKey::from_secret(&bytes.0), DecodingKey::from_secret(&bytes.0));
            keys.insert(id.clone(), pair);
        }
        let annotations = secret.metadata.annotations.as_ref();
        let current = annotations.and_then(|all| all.get(CURRENT_KEY_ANNOTATION)).cloned();
        Self { current, keys }
    }

    /// Whether tokens can be made.
    pub fn can_sign(&self) -> bool {
        self.current.as_ref().is_some_and(|id| self.keys.contains_key(id))
    }

    /// A token for a user.
    pub fn sign(&self, user_uid: &str, epoch: i64, now: Timestamp) -> Result<String, TokenError> {
        self.encode(&Claims::new(AUDIENCE, LIFETIME, user_uid, epoch, now))
    }

    /// A ticket for the virtual machine with the UID `vm`, or for the feed of all where that is empty.
    pub fn sign_ticket(
        &self,
        user_uid: &str,
        epoch: i64,
        until: i64,
        vm: &str,
        now: Timestamp,
    ) -> Result<String, TokenError> {
        let common = Claims::new(TICKET_AUDIENCE, TICKET_LIFETIME, user_uid, epoch, now);
        self.encode(&TicketClaims { common, until, vm: vm.to_owned() })
    }

    fn encode(&self, claims: &impl Serialize) -> Result<String, TokenError> {
        let id = self.current.as_ref().ok_or(TokenError::NoCurrentKey)?;
        let (key, _) = self.keys.get(id).ok_or(TokenError::NoCurrentKey)?;
        let header = Header { kid: Some(id.clone()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, claims, key).map_err(TokenError::Invalid)
    }

    /// The claims of a token, if it is one of ours and in force. Whether its user is still there and its epoch still
    /// current is for the caller to ask.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, TokenError> {
        let claims: Claims = self.decode(token, AUDIENCE)?;
        claims.check_times(LIFETIME, now)?;
        Ok(claims)
    }

    /// The claims of a ticket, if it is one of ours and in force. Whether it was used, and all that holds of a session,
    /// is for the caller to ask.
    pub fn verify_ticket(&self, ticket: &str, now: Timestamp) -> Result<TicketClaims, TokenError> {
        let claims: TicketClaims = self.decode(ticket, TICKET_AUDIENCE)?;
        claims.common.check_times(TICKET_LIFETIME, now)?;
        Ok(claims)
    }

    fn decode<C: DeserializeOwned + Clone>(&self, token: &str, audience: &str) -> Result<C, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(TokenError::Invalid)?;
        if header.alg != Algorithm::HS256 {
            return Err(TokenError::Foreign("algorithm"));
        }
        if header.typ.as_deref() != Some("JWT") || header.crit.is_some() {
            return Err(TokenError::Foreign("header"));
        }
        let id = header.kid.ok_or(TokenError::UnknownKey)?;
        let (_, key) = self.keys.get(&id).ok_or(TokenError::UnknownKey)?;
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        Ok(jsonwebtoken::decode(token, key, &validation).map_err(TokenError::Invalid)?.claims)
    }
}

impl Claims {
    fn new(audience: &str, lifetime: Duration, user_uid: &str, epoch: i64, now: Timestamp) -> Self {
        let issued = now.as_second();
        Self {
            iss: ISSUER.to_owned(),
            aud: audience.to_owned(),
            sub: user_uid.to_owned(),
            exp: issued.saturating_add_unsigned(lifetime.as_secs()),
            nbf: issued,
            iat: issued,
            jti: uuid::Uuid::new_v4().to_string(),
            epoch,
        }
    }

    fn check_times(&self, lifetime: Duration, now: Timestamp) -> Result<(), TokenError> {
        if self.iat > now.as_second().saturating_add_unsigned(LEEWAY.as_secs()) {
            return Err(TokenError::Foreign("issued in the future"));
        }
        if self.exp.saturating_sub(self.iat) > lifetime.as_secs().cast_signed() {
            return Err(TokenError::Foreign("lifetime"));
        }
        Ok(())
    }
}

/// A keyring with one key, `k1`.
#[cfg(test)]
pub fn test_keyring(key: &[u8]) -> Keyring {
    let mut secret = Secret {
        data: Some(BTreeMap::from([("k1".to_owned(), k8s_openapi::ByteString(key.to_vec()))])),
        ..Secret::default()
    };
    secret.metadata.annotations = Some(BTreeMap::from([(CURRENT_KEY_ANNOTATION.to_owned(), "k1".to_owned())]));
    Keyring::from_secret(&secret)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn claims(change: impl FnOnce(&mut Value)) -> Value {
        let now = Timestamp::now().as_second();
        let mut claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": "uid", "exp": now + 3600, "nbf": now, "iat": now, "jti": "x", "epoch": 0,
        });
        change(&mut claims);
        claims
    }

    fn token(header: &Header, claims: &Value, key: &[u8]) -> String {
        jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(key)).unwrap()
    }

    fn header() -> Header {
        Header { kid: Some("k1".into()), ..Header::new(Algorithm::HS256) }
    }

    fn verify(token: &str) -> Result<Claims, TokenError> {
        test_keyring(KEY).verify(token, Timestamp::now())
    }

    #[test]
    fn takes_its_own() {
        let keyring = test_keyring(KEY);
        let now = Timestamp::now();
        let first = keyring.verify(&keyring.sign("uid", 3, now).unwrap(), now).unwrap();
        assert_eq!((first.sub.as_str(), first.epoch), ("uid", 3));
        assert_eq!(first.exp - first.iat, 12 * 3600);
        let second = keyring.verify(&keyring.sign("uid", 3, now).unwrap(), now).unwrap();
        assert_ne!(first.jti, second.jti);
        // The test's own recipe is good too, or the refusals below would prove nothing.
        verify(&token(&header(), &claims(|_| {}), KEY)).unwrap();
    }

    #[test]
    fn refuses_other_keys_and_algorithms() {
        let good = claims(|_| {});
        let other_key = token(&header(), &good, b"another key of thirty-two bytes!!");
        assert!(matches!(verify(&other_key), Err(TokenError::Invalid(_))));
        let other_id = token(&Header { kid: Some("k2".into()), ..header() }, &good, KEY);
        assert!(matches!(verify(&other_id), Err(TokenError::UnknownKey)));
        let no_id = token(&Header { kid: None, ..header() }, &good, KEY);
        assert!(matches!(verify(&no_id), Err(TokenError::UnknownKey)));
        let hs512 = token(&Header { alg: Algorithm::HS512, ..header() }, &good, KEY);
        assert!(matches!(verify(&hs512), Err(TokenError::Foreign("algorithm"))));
        let typ = token(&Header { typ: Some("at+jwt".into()), ..header() }, &good, KEY);
        assert!(matches!(verify(&typ), Err(TokenError::Foreign("header"))));
        let crit = token(&Header { crit: Some(vec!["b64".into()]), ..header() }, &good, KEY);
        assert!(verify(&crit).is_err());
    }

    #[test]
    fn refuses_the_unsigned() {
        let signed = token(&header(), &claims(|_| {}), KEY);
        let (_, rest) = signed.split_once('.').unwrap();
        let (body, signature) = rest.split_once('.').unwrap();
        // {"typ":"JWT","alg":"none","kid":"k1"}
        let none = "eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIiwia2lkIjoiazEifQ";
        for forged in [format!("{none}.{body}."), format!("{none}.{body}.{signature}"), format!("{none}.{body}")] {
            assert!(verify(&forged).is_err());
        }
        let (head, _) = signed.rsplit_once('.').unwrap();
        assert!(verify(&format!("{head}.")).is_err());
        for text in ["", ".", "..", "a.b.c", "Bearer"] {
            assert!(verify(text).is_err());
        }
    }

    #[test]
    fn every_claim_is_required_with_its_type() {
        for name in ["iss", "aud", "sub", "exp", "nbf", "iat", "jti", "epoch"] {
            let without = claims(|all| {
                all.as_object_mut().unwrap().remove(name);
            });
            assert!(verify(&token(&header(), &without, KEY)).is_err(), "{name} missing");
            let null = claims(|all| all[name] = Value::Null);
            assert!(verify(&token(&header(), &null, KEY)).is_err(), "{name} null");
            let object = claims(|all| all[name] = json!({}));
            assert!(verify(&token(&header(), &object, KEY)).is_err(), "{name} an object");
        }
        for name in ["exp", "nbf", "iat", "epoch"] {
            let text = claims(|all| all[name] = Value::String(all[name].to_string()));
            assert!(verify(&token(&header(), &text, KEY)).is_err(), "{name} as a string");
        }
    }

    #[test]
    fn refuses_what_is_not_in_force_or_not_for_us() {
        let now = Timestamp::now().as_second();
        let changes: [(&str, Value); 6] = [
            ("exp", json!(now - 11)),
            ("exp", json!(now + 13 * 3600)),
            ("nbf", json!(now + 60)),
            ("iat", json!(now + 60)),
            ("iss", json!("somebody")),
            ("aud", json!("something")),
        ];
        for (name, value) in changes {
            let changed = claims(|all| all[name] = value.clone());
            assert!(verify(&token(&header(), &changed, KEY)).is_err(), "{name} = {value}");
        }
    }

    #[test]
    fn tickets_are_no_sessions() {
        let keyring = test_keyring(KEY);
        let now = Timestamp::now();
        let ticket = keyring.sign_ticket("uid", 3, now.as_second() + 60, "vm", now).unwrap();
        let claims = keyring.verify_ticket(&ticket, now).unwrap();
        assert_eq!((claims.common.sub.as_str(), claims.vm.as_str()), ("uid", "vm"));
        assert_eq!(claims.common.exp - claims.common.iat, 30);
        assert!(keyring.verify(&ticket, now).is_err());
        assert!(keyring.verify_ticket(&keyring.sign("uid", 3, now).unwrap(), now).is_err());
        let mut long = claims;
        long.common.exp += 1;
        let long = keyring.encode(&long).unwrap();
        assert!(matches!(keyring.verify_ticket(&long, now), Err(TokenError::Foreign("lifetime"))));
    }

    #[test]
    fn short_keys_are_no_keys() {
        assert!(!test_keyring(b"short").can_sign());
        assert!(matches!(test_keyring(b"short").sign("uid", 0, Timestamp::now()), Err(TokenError::NoCurrentKey)));
    }
}
