//! From the table to the handlers: method, credential, policy, parameters; then the operation. In this order, so that a
//! caller without rights learns nothing about parameters, and nothing of a body is read for a request that is refused.

use super::{
    access, cleanup, docs,
    error::{Answer, Code, Problem},
    export, export_jobs,
    health::Probe,
    ingest, keys,
    layers::RequestId,
    letters, login, openapi,
    query::Query,
    reads, recording, replay,
    routes::{Access, BASE, BOARD, ENDPOINTS, Endpoint, Operation as Op, TENANT, Verb},
    state::App,
    stats, stream, tenants, users,
};
use crate::{
    auth::{
        Principal,
        policy::{self, Action},
    },
    lifecycle::access_log::Who,
};
use axum::{
    Router,
    body::Body,
    extract::{RawPathParams, Request, State, rejection::RawPathParamsRejection},
    http::{HeaderValue, Method, header, request::Parts},
    response::{IntoResponse, Response},
    routing::any,
};
use std::{collections::BTreeMap, sync::Arc};

/// One call of an endpoint, checked as far as the table tells.
pub struct Call {
    /// What the handlers share.
    pub app: Arc<App>,
    /// Which endpoint.
    pub endpoint: &'static Endpoint,
    /// Method, URI, headers, extensions.
    pub parts: Parts,
    /// The body, unread.
    pub body: Body,
    /// The first parameter of the path, decoded; empty when the path has none.
    pub id: String,
    /// The second one, likewise.
    pub item: String,
    /// The query, its names checked.
    pub query: Query,
    /// Who calls; set unless the endpoint is open.
    pub caller: Option<Principal>,
    /// The caller as the access log names it; set with the caller.
    pub who: Option<Arc<Who>>,
    /// The request's id.
    pub request_id: Arc<str>,
}

impl Call {
    /// Who calls, and the action that the table asks for.
    pub fn caller(&self) -> Result<(&Principal, Action), Problem> {
        match (&self.caller, self.endpoint.access) {
            (Some(caller), Access::May(action)) => Ok((caller, action)),
            _ => Err(access::missing()),
        }
    }

    /// The caller as the access log names it. To be asked for before the body is read, which takes the call apart.
    pub fn who(&self) -> Result<Arc<Who>, Problem> {
        self.who.clone().ok_or_else(access::missing)
    }
}

/// The routes of the table, below the base and, where the table says so, at the root.
pub fn routes(app: Arc<App>) -> Router {
    let mut paths = BTreeMap::<&str, Vec<&'static Endpoint>>::new();
    for endpoint in ENDPOINTS {
        paths.entry(endpoint.path).or_default().push(endpoint);
    }
    let mut router = Router::new();
    for (path, endpoints) in paths {
        let at_root = endpoints.iter().any(|e| e.at_root);
        let endpoints: Arc<[_]> = endpoints.into();
        let handler = any(
            move |State(app): State<Arc<App>>, params: Result<RawPathParams, RawPathParamsRejection>, request: Request| async move {
                enter(app, &endpoints, params, request).await.unwrap_or_else(IntoResponse::into_response)
            },
        );
        router = router.route(&format!("{BASE}{path}"), handler.clone());
        if path == BOARD {
            // A person who opens the server's address sees the board.
            router = router.route("/", handler.clone());
        }
        if at_root {
            router = router.route(path, handler);
        }
    }
    router.fallback(|| async { Problem::not_found() }).with_state(app)
}

async fn enter(app: Arc<App>, endpoints: &[&'static Endpoint], params: Result<RawPathParams, RawPathParamsRejection>, request: Request) -> Answer {
    let endpoint = choose(endpoints, request.method())?;
    // A path that is no UTF-8 names nothing.
    let params = params.map_err(|_| Problem::not_found())?;
    let mut values = params.iter().map(|(_, value)| value.to_owned());
    let (id, item) = (values.next().unwrap_or_default(), values.next().unwrap_or_default());
    let (parts, body) = request.into_parts();
    let caller = match endpoint.access {
        Access::Open => None,
        // The feed takes its credential from more places and may wait for it.
        _ if endpoint.operation == Op::Stream => None,
        Access::May(_) => {
            let found = access::credential(&parts, None, app.services.auth.takes_gateways()).and_then(|found| found.ok_or_else(access::missing));
            let credential = found.map_err(|refused| access::counted(&app, &parts, refused))?;
            let caller = access::authenticate(&app, credential, &parts).await?;
            access::not_borrowed(&app, &caller, endpoint, &parts)?;
            Some(caller)
        }
    };
    let request_id = parts.extensions.get::<RequestId>().map_or_else(|| "".into(), |id| id.0.clone());
    let who = caller.as_ref().map(|caller| recording::who(caller, &parts, &request_id));
    let tenant = caller.as_ref().and_then(|caller| caller.tenant.clone());
    let call = Call {
        app: app.clone(),
        endpoint,
        parts,
        body,
        id,
        item,
        query: Query::default(),
        caller,
        who: who.clone(),
        request_id,
    };
    let answer = match admitted(call) {
        Ok(call) if recording::is_change(endpoint) => to_the_end(call).await,
        Ok(call) => perform(call).await,
        Err(problem) => Err(problem),
    };
    if let (Err(problem), Some(tenant), Some(who)) = (&answer, &tenant, &who) {
        recording::denied(&app, tenant, who, endpoint, problem);
    }
    answer
}

/// Checks what the table tells: role, tenant of the path, names of the parameters.
fn admitted(mut call: Call) -> Result<Call, Problem> {
    let endpoint = call.endpoint;
    if let (Some(caller), Access::May(action)) = (&call.caller, endpoint.access) {
        let may = if endpoint.path.starts_with(TENANT) {
            // Reach before role, so that the answer is the same for whatever stands below a tenant.
            policy::allowed_on(caller, action, &access::reaches(&call.app, caller, &call.id)?)
        } else {
            policy::allowed(caller, action)
        };
        if !may {
            return Err(access::denied());
        }
    }
    if endpoint.params.is_some() {
        call.query = Query::parse(call.parts.uri.query())?;
    }
    if endpoint.operation != Op::Stream {
        call.query.check(endpoint)?;
    }
    Ok(call)
}

/// Performs a call to its end, also when the client goes away meanwhile: what is changed is then written down too.
async fn to_the_end(call: Call) -> Answer {
    match tokio::spawn(perform(call)).await {
        Ok(answer) => answer,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_ended) => Err(super::layers::internal()), // with the runtime
        },
    }
}

fn choose(endpoints: &[&'static Endpoint], method: &Method) -> Result<&'static Endpoint, Problem> {
    let name = if method == Method::HEAD { "GET" } else { method.as_str() };
    if let Some(endpoint) = endpoints.iter().find(|e| e.verb.as_str() == name) {
        return Ok(endpoint);
    }
    let mut allowed = Vec::new();
    for verb in [Verb::Get, Verb::Post, Verb::Put, Verb::Delete] {
        if endpoints.iter().any(|e| e.verb == verb) {
            allowed.push(verb.as_str());
            allowed.extend((verb == Verb::Get).then_some("HEAD"));
        }
    }
    let allowed = allowed.join(", ");
    let value = HeaderValue::from_str(&allowed).expect("names of methods are visible ASCII");
    Err(Problem::new(Code::MethodNotAllowed, format!("this path answers to {allowed}")).with_header(header::ALLOW, value))
}

async fn perform(call: Call) -> Answer {
    match call.endpoint.operation {
        Op::PostLog | Op::PostBulk => ingest::write(call).await,
        Op::ListLogs => reads::list(call).await,
        Op::SearchLogs => reads::search(call).await,
        Op::Export | Op::ExportJson | Op::ExportCsv => export::stream(call).await,
        Op::CreateExport => export_jobs::create(call).await,
        Op::GetExport => export_jobs::get(call).await,
        Op::EndExport => export_jobs::end(call).await,
        Op::DownloadExport => export_jobs::download(call).await,
        Op::RebuildSearch => export_jobs::rebuild(call).await,
        Op::GetLog => reads::get(call).await,
        Op::Stats => stats::stats(call).await,
        Op::Stream => stream::open(call).await,
        Op::Cleanup => cleanup::cleanup(call).await,
        Op::ListTenants => tenants::list(&call),
        Op::CreateTenant => tenants::create(call).await,
        Op::GetTenant => tenants::get(&call),
        Op::UpdateTenant => tenants::update(call).await,
        Op::DeleteTenant => tenants::delete(call).await,
        Op::Usage => tenants::usage(call).await,
        Op::ListKeys => keys::list(call).await,
        Op::CreateKey => keys::create(call).await,
        Op::RevokeKey => keys::revoke(call).await,
        Op::ListUsers => users::list(call).await,
        Op::CreateUser => users::create(call).await,
        Op::RemoveUser => users::remove(call).await,
        Op::Login => login::login(call).await,
        Op::ListDeadLetters => letters::list(call).await,
        Op::GetDeadLetter => letters::get(call).await,
        Op::DeleteDeadLetter => letters::delete(call).await,
        Op::ReplayDeadLetter => replay::replay(call).await,
        Op::HealthReport => Ok(call.app.services.health.answer(Probe::Report)),
        Op::HealthLive => Ok(call.app.services.health.answer(Probe::Live)),
        Op::HealthReady => Ok(call.app.services.health.answer(Probe::Ready)),
        Op::OpenApi => Ok(json(openapi::document().to_vec())),
        Op::Board => Ok(docs::board()),
        Op::SwaggerUi => Ok(docs::swagger_ui()),
        Op::ReDoc => Ok(docs::redoc()),
        Op::Asset => docs::asset(&call.id, &call.parts.headers),
    }
}

/// A 200 with JSON text.
pub fn json(body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A 200 with a value as JSON.
pub fn json_of(value: &impl serde::Serialize) -> Response {
    json(serde_json::to_vec(value).expect("plain data always serialises"))
}
