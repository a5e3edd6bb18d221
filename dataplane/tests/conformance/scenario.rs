//! Scenarios: lines of JSON, executed in order.
//!
//! - `{"file": NAME, "size": BYTES}`: a sparse file `${dir}/NAME`.
//! - `{"start": TARGET}`: starts a target, in its start-up phase. `{"kill": TARGET}`: SIGKILL.
//! - `{"on": TARGET, "call": METHOD, "params": {}, "result" or "error": ...}`: a call, with the recorded answer. With `"until": true` it
//!   is repeated until the answer is that one. With `"any_order": true` the elements of lists may come in any.
//! - `{"stop": TARGET}`, `{"continue": TARGET}`: SIGSTOP and SIGCONT.
//! - `{"host": [ARGUMENT, ...], "exit": CODE}`: `vda_host` with these arguments has to end with that code. With `"as": NAME` instead of a
//!   code it runs on, and `{"wait": NAME, "exit": CODE}` is its end; `{"running": NAME}`: it has not ended. `{"end": NAME}`: SIGKILL.
//! - `{"on": TARGET, "ask": METHOD, "params": {}, "as": NAME}`: a call on a connection of its own that is not waited for. `{"unanswered": NAME}`:
//!   it has no answer yet. `{"answered": NAME, "result" or "error": ...}`: waits for the answer.
//! - `{"on": TARGET, "send": TEXT, "answers": [...]}`: raw bytes on a connection of their own, with the values answered; `"any_order"`
//!   when they may come in any. `"closes": true`: the target closes the connection instead.
//! - `{"connect": HOST, "port": NAME, "nqn": ..., "hostnqn": ..., "hostid": ...}`: a controller with one I/O queue, for single NVMe commands; with
//!   `"refused": STATUS` it is refused. `{"disconnect": HOST}`.
//! - `{"by": HOST, "io" or "admin": COMMAND, ..., "answer": {...}}`: an NVMe command and every field of its answer, see `nvme.rs`. With `"as": NAME` it
//!   is not waited for: `{"pending": NAME}`: it has no answer yet; `{"came": NAME, "answer": {...}}`: waits for the answer.
//! - `{"json": NAME, "content": ...}`: the file `${dir}/NAME` has this value.
//!
//! A step whose answer is left out is recorded: with `VDA_CONFORMANCE_RECORD=DIR` all lines are written to `DIR/SCENARIO.jsonl` with their answers.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::Deserialize;
use serde_json::{Value, json};

use super::compare::{Bindings, Difference};
use super::exceptions::Exceptions;
use super::host::Host;
use super::nvme::{NvmeCommand, NvmeHost, Token, Who};
use super::target::{Connection, Target};

/// How long `until` repeats a call.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Step {
    File { file: String, size: u64 },
    Start { start: String },
    Kill { kill: String },
    Stop { stop: String },
    Continue { r#continue: String },
    Host { host: Vec<String>, exit: i32 },
    Begin { host: Vec<String>, r#as: String },
    Wait { wait: String, exit: i32 },
    Running { running: String },
    End { end: String },
    Ask(Ask),
    Unanswered { unanswered: String },
    Answered(Answered),
    Call(Call),
    Send(Send),
    Connect(Connect),
    Disconnect { disconnect: String },
    Nvme(Box<NvmeCommand>),
    Pending { pending: String },
    Came { came: String, answer: Option<Value> },
    Json { json: String, content: Option<Value> },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Connect {
    connect: String,
    port: String,
    nqn: String,
    hostnqn: String,
    hostid: uuid::Uuid,
    refused: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    on: String,
    call: String,
    params: Option<Value>,
    result: Option<Value>,
    error: Option<Value>,
    #[serde(default)]
    until: bool,
    #[serde(default)]
    any_order: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    on: String,
    ask: String,
    params: Option<Value>,
    r#as: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answered {
    answered: String,
    result: Option<Value>,
    error: Option<Value>,
}

/// A call that is not answered yet.
struct Asked {
    on: String,
    method: String,
    line: usize,
    connection: Connection,
    /// Came when there should have been none yet.
    early: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    on: String,
    send: String,
    #[serde(default)]
    answers: Vec<Value>,
    #[serde(default)]
    any_order: bool,
    #[serde(default)]
    closes: bool,
}

struct Run {
    dir: tempfile::TempDir,
    bindings: Bindings,
    targets: BTreeMap<String, Target>,
    hosts: BTreeMap<String, Host>,
    asked: BTreeMap<String, Asked>,
    nvme_hosts: BTreeMap<String, NvmeHost>,
    begun: BTreeMap<String, (Token, Box<NvmeCommand>)>,
    exceptions: Exceptions,
    failures: Vec<String>,
    /// The answer to the step under way, in the form of a scenario, if it had none.
    recorded: Option<(&'static str, Value)>,
}

/// Runs a scenario to its end, then fails with everything that was not as recorded.
pub(crate) fn run(name: &str, lines: &str) {
    let dir = tempfile::tempdir().unwrap();
    let bindings = Bindings::new(dir.path());
    let exceptions = Exceptions::of(name);
    let mut run = Run {
        dir,
        bindings,
        targets: BTreeMap::new(),
        hosts: BTreeMap::new(),
        asked: BTreeMap::new(),
        nvme_hosts: BTreeMap::new(),
        begun: BTreeMap::new(),
        exceptions,
        failures: Vec::new(),
        recorded: None,
    };
    let mut record = String::new();
    for (at, line) in lines.lines().enumerate() {
        let step: Step =
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{name}:{}: {e}: {line}", at + 1));
        run.step(at + 1, step);
        record += &match run.recorded.take() {
            Some((field, value)) => {
                let (line, value) =
                    (line.strip_suffix('}').unwrap(), run.bindings.unfill(&value.to_string()));
                format!("{line},\"{field}\":{value}}}\n")
            }
            None => format!("{line}\n"),
        };
    }
    if let Some(dir) = std::env::var_os("VDA_CONFORMANCE_RECORD") {
        std::fs::write(Path::new(&dir).join(format!("{name}.jsonl")), record).unwrap();
    }
    if std::env::var_os("VDA_SPDK_TGT").is_none() {
        let what = "docs/spdk-compatibility.md lists a difference that does not happen";
        let unused = run.exceptions.unused().into_iter();
        run.failures.extend(unused.map(|row| format!("{what}: {row}")));
    }
    assert!(
        run.failures.is_empty(),
        "{} differences in {name}:\n{}",
        run.failures.len(),
        run.failures.join("\n")
    );
}

impl Run {
    fn step(&mut self, line: usize, step: Step) {
        match step {
            Step::File { file, size } => {
                File::create(self.dir.path().join(file)).unwrap().set_len(size).unwrap()
            }
            Step::Start { start } => {
                let target = Target::start(self.dir.path(), &start);
                self.targets.insert(start, target);
            }
            Step::Kill { kill } => drop(self.targets.remove(&kill).unwrap()),
            Step::Stop { stop } => self.targets[&stop].signal(Signal::STOP),
            Step::Continue { r#continue } => self.targets[&r#continue].signal(Signal::CONT),
            Step::Host { host, exit } => {
                let ended = Host::start(self.bindings.fill_all(&host)).end();
                self.ended(line, &host.join(" "), exit, &ended);
            }
            Step::Begin { host, r#as } => {
                let host = Host::start(self.bindings.fill_all(&host));
                self.hosts.insert(r#as, host);
            }
            Step::Wait { wait, exit } => {
                let ended = self.hosts.remove(&wait).unwrap().end();
                self.ended(line, &wait, exit, &ended);
            }
            Step::Running { running } => {
                if let Some(ended) = self.hosts.get_mut(&running).unwrap().has_ended() {
                    self.failures.push(format!("line {line}: {running} has ended already: {ended}"));
                }
            }
            Step::End { end } => drop(self.hosts.remove(&end).unwrap()),
            Step::Ask(ask) => self.ask(line, ask),
            Step::Unanswered { unanswered } => {
                let asked = self.asked.get_mut(&unanswered).unwrap();
                asked.early = asked.connection.received();
                if let Some(answer) = &asked.early {
                    self.failures.push(format!("line {line}: {unanswered} is answered already: {answer}"));
                }
            }
            Step::Answered(answered) => self.answered(line, &answered),
            Step::Call(call) => self.call(line, &call),
            Step::Send(send) => self.send(line, &send),
            Step::Connect(connect) => self.connect(line, &connect),
            Step::Disconnect { disconnect } => drop(self.nvme_hosts.remove(&disconnect).unwrap()),
            Step::Nvme(command) => self.nvme(line, command),
            Step::Pending { pending } => {
                let (token, command) = &self.begun[&pending];
                if !self.nvme_hosts.get_mut(&command.by).unwrap().is_pending(*token) {
                    self.failures.push(format!("line {line}: {pending} is answered already"));
                }
            }
            Step::Came { came, answer } => {
                let (token, command) = self.begun.remove(&came).unwrap();
                let got = self.nvme_hosts.get_mut(&command.by).unwrap().end(token, &command);
                self.compare(line, &command.name(), "answer", answer, got);
            }
            Step::Json { json, content } => {
                let text = std::fs::read(self.dir.path().join(&json)).unwrap_or_default();
                let got = match text[..] {
                    [] => "empty, or not there".into(),
                    _ => serde_json::from_slice(&text).unwrap(),
                };
                self.compare(line, &json, "content", content, got);
            }
        }
    }

    fn connect(&mut self, line: usize, c: &Connect) {
        let who = Who {
            port: self.bindings.fill_text(&format!("${{port:{}}}", c.port)).parse().unwrap(),
            nqn: c.nqn.clone(),
            hostnqn: c.hostnqn.clone(),
            hostid: c.hostid,
        };
        let refused = match NvmeHost::connect(&who) {
            Ok(host) => {
                self.nvme_hosts.insert(c.connect.clone(), host);
                None
            }
            Err(status) => Some(format!("{:x}/{:02x}", status.sct(), status.sc())),
        };
        if refused != c.refused {
            self.failures
                .push(format!("line {line}: {} connects: {refused:?}, not {:?}", c.connect, c.refused));
        }
    }

    fn nvme(&mut self, line: usize, mut command: Box<NvmeCommand>) {
        let host = self.nvme_hosts.get_mut(&command.by).unwrap();
        let token = host.begin(&command);
        if let Some(name) = command.r#as.clone() {
            self.begun.insert(name, (token, command));
            return;
        }
        let got = host.end(token, &command);
        let answer = command.answer.take();
        self.compare(line, &command.name(), "answer", answer, got);
    }

    /// Compares what no method answered; `name` is its method in the table of differences.
    fn compare(&mut self, line: usize, name: &str, field: &'static str, expected: Option<Value>, got: Value) {
        let Some(expected) = expected else {
            assert!(is_recording(), "line {line}: no recorded answer");
            self.recorded = Some((field, got));
            return;
        };
        // The data plane is the only target that exceptions are for; these steps have one target.
        let target = self.targets.keys().next().cloned().unwrap_or_default();
        let mut differences = self.differences(&target, name, &expected, &got);
        // Whether a host may try again is no matter of a single command.
        differences
            .retain(|d| d.path != "dnr" || self.is_spdk(&target) || !self.exceptions.allow("(nvme)", d));
        let report = |d: &Difference| self.failures.push(describe(line, &target, name, d));
        differences.iter().for_each(report);
    }

    fn ended(&mut self, line: usize, what: &str, exit: i32, (code, said): &(Option<i32>, String)) {
        if *code != Some(exit) {
            self.failures
                .push(format!("line {line} {what}: exit code {exit} expected, got {code:?}: {said}"));
        }
    }

    fn request(&mut self, line: usize, method: &str, params: Option<&Value>) -> Value {
        let mut request = json!({"jsonrpc": "2.0", "id": line, "method": method});
        if let Some(params) = params {
            request["params"] = self.bindings.fill(params);
        }
        request
    }

    fn ask(&mut self, line: usize, ask: Ask) {
        let request = self.request(line, &ask.ask, ask.params.as_ref());
        let mut connection = self.targets[&ask.on].connect();
        connection.send(&request.to_string());
        self.asked.insert(ask.r#as, Asked { on: ask.on, method: ask.ask, line, connection, early: None });
    }

    fn answered(&mut self, line: usize, answered: &Answered) {
        let mut asked = self.asked.remove(&answered.answered).unwrap();
        let got = asked.early.take().or_else(|| asked.connection.receive()).unwrap();
        let expected = expected(asked.line, answered.result.as_ref(), answered.error.as_ref());
        let differences = self.differences(&asked.on, &asked.method, &expected, &got);
        let report = |d: &Difference| self.failures.push(describe(line, &asked.on, &asked.method, d));
        differences.iter().for_each(report);
    }

    fn call(&mut self, line: usize, call: &Call) {
        let request = self.request(line, &call.call, call.params.as_ref());
        if call.result.is_none() && call.error.is_none() && is_recording() {
            let got = self.targets.get_mut(&call.on).unwrap().exchange(&request);
            let field = if got["error"].is_null() { "result" } else { "error" };
            self.recorded = Some((field, got[field].clone()));
            return;
        }
        let expected = expected(line, call.result.as_ref(), call.error.as_ref());
        // After a difference what follows may never come: it is only reported.
        let patience = if self.failures.is_empty() { PATIENCE } else { Duration::ZERO };
        let started = Instant::now();
        let differences = loop {
            let mut got = self.targets.get_mut(&call.on).unwrap().exchange(&request);
            if call.any_order {
                self.bindings.reorder(&expected, &mut got);
            }
            let differences = self.differences(&call.on, &call.call, &expected, &got);
            if differences.is_empty() || !call.until || started.elapsed() > patience {
                break differences;
            }
            // Nothing announces it.
            #[allow(clippy::disallowed_methods)]
            std::thread::sleep(Duration::from_millis(50));
        };
        let report = |d: &Difference| self.failures.push(describe(line, &call.on, &call.call, d));
        differences.iter().for_each(report);
    }

    fn differences(&mut self, target: &str, method: &str, expected: &Value, got: &Value) -> Vec<Difference> {
        let mut differences = Vec::new();
        if got["error"]["code"] == -32601 && Exceptions::is_absent(method) {
            return differences;
        }
        self.bindings.compare("", expected, got, &mut differences);
        for difference in &mut differences {
            difference.path = difference.path.trim_start_matches('.').to_owned();
        }
        if !self.is_spdk(target) {
            differences.retain(|difference| !self.exceptions.allow(method, difference));
        }
        differences
    }

    /// Whether a target has to answer as recorded, without exceptions. What a data plane says of itself also shows in what an SPDK
    /// connected to it says.
    fn is_spdk(&self, target: &str) -> bool {
        Target::spdk(target).is_some() && std::env::var_os("VDA_SPDK_TARGETS").is_none()
    }

    fn send(&mut self, line: usize, send: &Send) {
        let mut connection: Connection = self.targets[&send.on].connect();
        connection.send(&send.send);
        if send.closes {
            if let Some(value) = connection.receive() {
                self.failures.push(format!("line {line}: an answer to {}: {value}", send.send));
            }
            return;
        }
        let mut answers: Vec<Value> = send.answers.iter().map_while(|_| connection.receive()).collect();
        let mut expected = send.answers.clone();
        if send.any_order {
            sort_by_id(&mut answers);
            sort_by_id(&mut expected);
        }
        let differences = self.differences(&send.on, "(raw)", &expected.into(), &answers.into());
        let report = |d: &Difference| self.failures.push(describe(line, &send.on, &send.send, d));
        differences.iter().for_each(report);
    }
}

fn is_recording() -> bool {
    std::env::var_os("VDA_CONFORMANCE_RECORD").is_some()
}

/// The recorded answer to the request of a line.
fn expected(line: usize, result: Option<&Value>, error: Option<&Value>) -> Value {
    match (result, error) {
        (Some(result), None) => json!({"jsonrpc": "2.0", "id": line, "result": result}),
        (None, Some(error)) => json!({"jsonrpc": "2.0", "id": line, "error": error}),
        _ => panic!("line {line}: neither result nor error, or both"),
    }
}

/// Sorts answers, and those inside a batch.
fn sort_by_id(answers: &mut [Value]) {
    answers.iter_mut().filter_map(Value::as_array_mut).for_each(|batch| sort_by_id(batch));
    answers.sort_by_key(|answer| answer["id"].as_u64());
}

fn describe(line: usize, target: &str, what: &str, difference: &Difference) -> String {
    let show = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), Value::to_string);
    let (expected, got) = (show(&difference.expected), show(&difference.got));
    format!("line {line} {target} {what}: {}: expected {expected}, got {got}", difference.path)
}
