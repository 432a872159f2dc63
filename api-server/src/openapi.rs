//! The OpenAPI document: what holds for all operations. The operations themselves stand with their handlers.

use std::collections::BTreeMap;

use utoipa::openapi::path::{Operation, Parameter, ParameterIn};
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, PathItem, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, Modify, OpenApi as _};

use crate::error::ErrorBody;
use crate::feed::Frame;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Kvmoor API",
        description = "Virtual machines on the KVM hosts of a Kubernetes cluster.\n\nEvery answer has the header `x-request-id`, which the server's log line has too. Memory is in MiB, times are RFC 3339 in UTC.",
    ),
    components(schemas(ErrorBody, Frame)),
    modifiers(&Bearer),
    tags(
        (name = "health", description = "Whether the server works"),
        (name = "auth", description = "Sessions and one's own account"),
        (name = "vms", description = "Virtual machines"),
        (name = "snapshots", description = "States of virtual machines that can be brought back"),
        (name = "quota", description = "What one's virtual machines may add up to"),
        (name = "images", description = "What a virtual machine's disk can start from"),
        (name = "hosts", description = "KVM hosts, for admins"),
        (name = "users", description = "Accounts, for admins"),
    )
)]
struct Base;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT");
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer.build()));
        let token = ApiKeyValue::with_description("token", "A session's token, where headers cannot be sent");
        components.add_security_scheme("token", SecurityScheme::ApiKey(ApiKey::Query(token)));
        let ticket = ApiKeyValue::with_description("ticket", "A ticket for one use within 30 s");
        components.add_security_scheme("ticket", SecurityScheme::ApiKey(ApiKey::Query(ticket)));
    }
}

const JSON: &str = "application/json";

/// The refusal that all operations share which ask for more of a quota.
pub enum OverQuota {}

impl IntoResponses for OverQuota {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let refusal = error("More than the quota; the message has the numbers");
        BTreeMap::from([("403".to_owned(), refusal.into())])
    }
}

/// The document without operations.
pub fn base() -> OpenApi {
    Base::openapi()
}

/// Adds to every operation the errors that it shares with all operations of its shape.
pub fn add_common_errors(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let has_id = path.contains('{');
        for operation in operations(item) {
            let has_body = operation.request_body.is_some();
            let is_json = operation.request_body.as_ref().is_some_and(takes_json);
            let has_input = has_body || operation.parameters.iter().flatten().any(is_query);
            let protected = operation.security.as_ref().is_some_and(|schemes| !schemes.is_empty());
            let admin = protected && (path.starts_with("/api/admin/") || path == "/api/hosts" || path == "/api/quota");
            let errors = [
                ("400", has_input, "The request does not fit; the message says what to change"),
                ("401", protected, "No session, or one that has ended"),
                ("403", admin, "Admin access required"),
                ("404", has_id, "Not there, or somebody else's"),
                ("413", is_json, "The body is larger than 1 MiB"),
                ("415", is_json, "The body is not application/json"),
                ("500", true, "A fault of the server"),
                ("503", true, "Something that the server needs does not answer; try again"),
            ];
            for (code, applies, description) in errors {
                if applies && !operation.responses.responses.contains_key(code) {
                    add(operation, code, description);
                }
            }
        }
    }
}

fn is_query(parameter: &RefOr<Parameter>) -> bool {
    matches!(parameter, RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Query)
}

/// Otherwise the body is a file.
fn takes_json(body: &RefOr<RequestBody>) -> bool {
    matches!(body, RefOr::T(body) if body.content.contains_key(JSON))
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch].into_iter().flatten()
}

fn add(operation: &mut Operation, code: &str, description: &str) {
    operation.responses.responses.insert(code.to_owned(), error(description).into());
}

pub fn error(description: &str) -> Response {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
    ResponseBuilder::new().description(description).content(JSON, body).build()
}
