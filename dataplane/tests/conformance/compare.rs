//! Placeholders, and the comparison of an answer with what was recorded.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use serde_json::{Map, Value};
use vda_ports::Port;

/// What placeholders stand for.
///
/// `${dir}`: the scenario's directory. `${port:NAME}`: a free TCP port. `${uuid:NAME}`: in an answer, any UUID the first time and the
/// same one from then on. `${number}`, `${string}`, `${any}`: in an answer, anything of that kind.
#[derive(Clone)]
pub(crate) struct Bindings {
    dir: String,
    ports: BTreeMap<String, Rc<Port>>,
    uuids: BTreeMap<String, String>,
}

/// Something that is not as recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Like `result[].driver_specific.uring`.
    pub(crate) path: String,
    pub(crate) expected: Option<Value>,
    pub(crate) got: Option<Value>,
}

impl Bindings {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_str().unwrap().to_owned(), ports: BTreeMap::new(), uuids: BTreeMap::new() }
    }

    /// A request's value, with its placeholders filled in.
    pub(crate) fn fill(&mut self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.fill_text(text)),
            Value::Array(items) => items.iter().map(|item| self.fill(item)).collect(),
            Value::Object(fields) => {
                fields.iter().map(|(name, field)| (name.clone(), self.fill(field))).collect()
            }
            other => other.clone(),
        }
    }

    pub(crate) fn fill_text(&mut self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let end = start + rest[start..].find('}').unwrap();
            out += &rest[..start];
            out += &self.lookup(&rest[start + 2..end]);
            rest = &rest[end + 1..];
        }
        out + rest
    }

    /// The text of an answer, with the directory and the ports as placeholders again.
    pub(crate) fn unfill(&self, text: &str) -> String {
        let ports = self.ports.iter().map(|(name, port)| (name, port.number().to_string()));
        let text = text.replace(&self.dir, "${dir}");
        ports.fold(text, |text, (name, port)| {
            text.replace(&format!("\"{port}\""), &format!("\"${{port:{name}}}\""))
        })
    }

    pub(crate) fn fill_all(&mut self, texts: &[String]) -> Vec<String> {
        texts.iter().map(|text| self.fill_text(text)).collect()
    }

    fn lookup(&mut self, name: &str) -> String {
        match name.split_once(':') {
            None if name == "dir" => self.dir.clone(),
            Some(("port", port)) => {
                let reserve = || Rc::new(Port::reserve().unwrap());
                self.ports.entry(port.to_owned()).or_insert_with(reserve).number().to_string()
            }
            Some(("uuid", uuid)) => self
                .uuids
                .get(uuid)
                .unwrap_or_else(|| panic!("{name} is used before an answer had it"))
                .clone(),
            _ => panic!("unknown placeholder {name:?}"),
        }
    }

    /// Every difference between an answer and what was recorded.
    pub(crate) fn compare(&mut self, path: &str, expected: &Value, got: &Value, out: &mut Vec<Difference>) {
        match (expected, got) {
            (Value::Object(expected), Value::Object(got)) => self.compare_fields(path, expected, got, out),
            (Value::Array(expected), Value::Array(got)) => self.compare_items(path, expected, got, out),
            _ if self.is_same(expected, got) => {}
            _ => out.push(Difference {
                path: path.to_owned(),
                expected: Some(expected.clone()),
                got: Some(got.clone()),
            }),
        }
    }

    fn compare_fields(
        &mut self,
        path: &str,
        expected: &Map<String, Value>,
        got: &Map<String, Value>,
        out: &mut Vec<Difference>,
    ) {
        for (name, field) in expected {
            let path = format!("{path}.{name}");
            match got.get(name) {
                Some(got) => self.compare(&path, field, got, out),
                None => out.push(Difference { path, expected: Some(field.clone()), got: None }),
            }
        }
        for (name, field) in got.iter().filter(|(name, _)| !expected.contains_key(*name)) {
            out.push(Difference { path: format!("{path}.{name}"), expected: None, got: Some(field.clone()) });
        }
    }

    fn compare_items(&mut self, path: &str, expected: &[Value], got: &[Value], out: &mut Vec<Difference>) {
        let path = format!("{path}[]");
        for at in 0..expected.len().max(got.len()) {
            match (expected.get(at), got.get(at)) {
                (Some(expected), Some(got)) => self.compare(&path, expected, got, out),
                (expected, got) => {
                    out.push(Difference {
                        path: path.clone(),
                        expected: expected.cloned(),
                        got: got.cloned(),
                    });
                }
            }
        }
    }

    /// Puts the elements of lists into the order of the recorded ones that they are most similar to.
    pub(crate) fn reorder(&self, expected: &Value, got: &mut Value) {
        match (expected, got) {
            (Value::Object(expected), Value::Object(got)) => {
                for (name, field) in got {
                    self.reorder(expected.get(name).unwrap_or(&Value::Null), field);
                }
            }
            (Value::Array(expected), Value::Array(got)) => {
                for at in 0..expected.len().min(got.len()) {
                    let distance = |value: &Value| {
                        let mut out = Vec::new();
                        self.clone().compare("", &expected[at], value, &mut out);
                        out.len()
                    };
                    let best = (at..got.len()).min_by_key(|other| distance(&got[*other])).unwrap();
                    got[at..=best].rotate_right(1);
                }
            }
            _ => {}
        }
    }

    fn is_same(&mut self, expected: &Value, got: &Value) -> bool {
        let Some(text) = expected.as_str() else { return expected == got };
        match text {
            "${any}" => return true,
            "${number}" => return got.is_number(),
            "${string}" => return got.is_string(),
            _ => {}
        }
        if let (Some(name), Some(got)) = (unbound_uuid(text, &self.uuids), got.as_str()) {
            let is_uuid = got.len() == 36 && uuid::Uuid::try_parse(got).is_ok();
            if is_uuid {
                self.uuids.insert(name.to_owned(), got.to_owned());
            }
            return is_uuid;
        }
        got.as_str().is_some_and(|got| self.fill_text(text) == got)
    }
}

fn unbound_uuid<'a>(text: &'a str, bound: &BTreeMap<String, String>) -> Option<&'a str> {
    let name = text.strip_prefix("${uuid:")?.strip_suffix('}')?;
    (!bound.contains_key(name)).then_some(name)
}
