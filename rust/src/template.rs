//! A chat template, rendered as transformers renders it, within limits.

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use serde_json::{Map, Value as Json};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc};
use std::time::Duration;

use crate::ffi::{fail, Failure, Outcome, INPUT, LIMIT, PANIC, PARSE, RAISED};
use crate::guard::Guard;
use crate::{counted, py_filters, screen};

const NAME: &str = "chat_template";
const MAX_SOURCE: usize = 1 << 20;
const MAX_OUTPUT: usize = 64 << 20;
// One unit is about one instruction or 64 bytes. Real templates use up to 50 thousand for short conversations.
const FUEL: u64 = 1_000_000;
const FUEL_PER_BYTE: u64 = 4;
const RECURSION: usize = 200;
const STACK: usize = 16 << 20;
const TIME: Duration = Duration::from_secs(10);

pub struct Template {
    env: Environment<'static>,
    stuck: Arc<AtomicBool>, // a rendering did not end in time
}

type Object = Map<String, Json>;

impl Template {
    pub fn new(source: &str) -> Outcome<Template> {
        if source.len() > MAX_SOURCE {
            return fail(LIMIT, format!("larger than {MAX_SOURCE} bytes"));
        }
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.or_else(|e| fail(PARSE, e.to_string()))?);
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_recursion_limit(RECURSION);
        py_filters::install(&mut env);
        let source = screen::screen(source).or_else(|e| fail(PARSE, e))?;
        env.add_template_owned(NAME, source).or_else(|e| Err(failure(PARSE, &e)))?;
        Ok(Template { env, stuck: Arc::new(AtomicBool::new(false)) })
    }

    /// `context` holds what came with the request (guarded if asked), `constants` what came with the model.
    pub fn render(&self, context: &str, constants: &str, guard: Option<&Guard>, unix_time: i64) -> Outcome<String> {
        let mut context: Object = parse(context, "context")?;
        if let Some(guard) = guard {
            guard.context(&mut context);
        }
        let mut all: Object = parse(constants, "constants")?;
        let size = serde_json::to_string(&context).map_or(0, |t| t.len() as u64);
        all.extend(context);
        let mut env = self.env.clone();
        env.set_fuel(Some(FUEL + FUEL_PER_BYTE * size));
        self.in_time(move || {
            py_filters::set_now(unix_time);
            let template = env.get_template(NAME).or_else(|e| Err(failure(PARSE, &e)))?;
            let text = template.render(counted::from_json(Json::Object(all)).0).or_else(|e| Err(failure(INPUT, &e)))?;
            if text.len() > MAX_OUTPUT {
                return fail(LIMIT, format!("the rendered prompt is larger than {MAX_OUTPUT} bytes"));
            }
            Ok(text)
        })
    }

    // Runs `body` on a thread with a known stack. The engine's fuel ends nearly everything well before TIME; a thread
    // that it does not end cannot be stopped, so the template is not used again.
    fn in_time(&self, body: impl FnOnce() -> Outcome<String> + Send + 'static) -> Outcome<String> {
        let late = || fail(LIMIT, "the template does not end");
        if self.stuck.load(Ordering::Relaxed) {
            return late();
        }
        let (send, receive) = mpsc::channel();
        let run = move || {
            let result = catch_unwind(AssertUnwindSafe(body));
            let panicked = || fail(PANIC, "the template engine");
            let _ = send.send(result.unwrap_or_else(|_| panicked()));
        };
        let spawned = std::thread::Builder::new().name("chat-template".into()).stack_size(STACK).spawn(run);
        spawned.or_else(|e| fail(LIMIT, format!("no thread to render on: {e}")))?;
        receive.recv_timeout(TIME).unwrap_or_else(|_| {
            self.stuck.store(true, Ordering::Relaxed);
            late()
        })
    }

    pub fn uses(&self, name: &str) -> bool {
        self.env.get_template(NAME).is_ok_and(|t| t.undeclared_variables(false).contains(name))
    }
}

fn parse(text: &str, what: &str) -> Outcome<Object> {
    serde_json::from_str(text).or_else(|e| fail(INPUT, format!("{what}: {e}")))
}

// One line: where, what. An exception of the template keeps exactly its text.
fn failure(status: i32, error: &Error) -> Failure {
    let mut chain: Vec<&Error> = Vec::new();
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = next {
        chain.extend(e.downcast_ref::<Error>());
        next = e.source();
    }
    for e in &chain {
        if let Some(text) = e.detail().and_then(|d| d.strip_prefix(py_filters::RAISED)) {
            return Failure { status: RAISED, message: text.to_string() };
        }
    }
    let deepest = chain.last().copied().unwrap_or(error);
    let line = chain.iter().rev().find_map(|e| e.line()).map_or(String::new(), |n| format!("line {n}: "));
    let detail = deepest.detail().map_or(String::new(), |d| format!(": {d}"));
    let limit = chain.iter().any(|e| e.kind() == ErrorKind::OutOfFuel);
    let what =
        if limit { "the template does too much work".to_string() } else { format!("{}{detail}", deepest.kind()) };
    Failure { status: if limit { LIMIT } else { status }, message: format!("{line}{what}") }
}
