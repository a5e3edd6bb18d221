use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use vda_spdk::Call;

use super::*;

type Answer = Result<Value, (i64, &'static str)>;

/// Answers by script: method -> answer.
#[derive(Clone)]
struct Script {
    answers: Arc<Vec<(&'static str, Answer)>>,
    calls: Arc<Mutex<Vec<(&'static str, Value)>>>,
}

impl Script {
    fn new(answers: Vec<(&'static str, Answer)>) -> Self {
        Self { answers: Arc::new(answers), calls: Arc::default() }
    }

    fn methods(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap().iter().map(|(method, _)| *method).collect()
    }
}

impl Rpc for Script {
    async fn call<C: Call>(&self, call: C) -> Result<C::Reply, Error> {
        self.calls.lock().unwrap().push((C::METHOD, serde_json::to_value(&call).unwrap()));
        let (_, answer) = self.answers.iter().find(|(method, _)| *method == C::METHOD).expect(C::METHOD);
        match answer {
            Ok(value) => Ok(serde_json::from_value(value.clone()).unwrap()),
            Err((code, message)) => Err(Error::rpc(C::METHOD, *code, *message)),
        }
    }
}

const RUNNING: (i64, &str) =
    (-1, "Method may only be called before framework is initialized. Use --wait-for-rpc");

#[tokio::test]
async fn a_fresh_data_plane_is_started_with_automatic_examine_off() {
    let script = Script::new(vec![
        ("bdev_set_options", Ok(json!(true))),
        ("framework_start_init", Ok(json!(true))),
        ("nvmf_get_transports", Ok(json!([]))),
        ("nvmf_create_transport", Ok(json!(true))),
    ]);
    prepare(&script, &NvmfCreateTransport::new("TCP")).await.unwrap();
    let expected =
        ["bdev_set_options", "framework_start_init", "nvmf_get_transports", "nvmf_create_transport"];
    assert_eq!(script.methods(), expected);
    assert_eq!(script.calls.lock().unwrap()[0].1, json!({"bdev_auto_examine": false}));
}

#[tokio::test]
async fn a_running_one_is_taken_over_if_automatic_examine_is_off() {
    let script = Script::new(vec![
        ("bdev_set_options", Err(RUNNING)),
        ("bdev_examine", Err((-19, "No such device"))),
        ("nvmf_get_transports", Ok(json!([]))),
        ("nvmf_create_transport", Ok(json!(true))),
    ]);
    prepare(&script, &NvmfCreateTransport::new("TCP")).await.unwrap();
    assert!(!script.methods().contains(&"framework_start_init"));
}

#[tokio::test]
async fn one_with_automatic_examine_on_is_refused_with_the_reason() {
    let script = Script::new(vec![
        ("bdev_set_options", Err(RUNNING)),
        ("bdev_examine", Err((-22, "Invalid argument"))),
    ]);
    let fault = prepare(&script, &NvmfCreateTransport::new("TCP")).await.unwrap_err();
    assert!(
        fault.message.contains("automatic examine on") && fault.message.contains("--wait-for-rpc"),
        "{fault}"
    );
    assert!(!script.methods().contains(&"nvmf_create_transport"));
}
