//! Every call against the list of SPDK's methods with their parameters (`schema.json`: name, type, `?` when optional): the same
//! names, nothing missing, nothing more, the same ones required, every word of every closed set.
//!
//! `schema.json` is SPDK's own `schema/schema.yaml` (BSD-3-Clause, see its first line) without the descriptions.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use vda_spdk::*;

#[derive(serde::Deserialize)]
struct Schema {
    methods: BTreeMap<String, BTreeMap<String, String>>,
    objects: BTreeMap<String, BTreeMap<String, String>>,
    enums: BTreeMap<String, Vec<String>>,
}

fn schema() -> Schema {
    serde_json::from_str(include_str!("schema.json")).unwrap()
}

impl Schema {
    /// A value of a type, in all its variants for a closed set.
    fn values(&self, kind: &str) -> Vec<Value> {
        match kind.split_once(' ') {
            Some(("enum", name)) => self.enums[name].iter().map(|word| json!(word)).collect(),
            Some(("object", name)) => vec![Value::Object(self.full(&self.objects[name]))],
            Some(("array", element)) => vec![Value::Array(self.values(element))],
            Some(other) => panic!("unknown type {other:?}"),
            None => vec![self.scalar(kind)],
        }
    }

    fn scalar(&self, kind: &str) -> Value {
        match kind {
            "string" => json!("text"),
            "boolean" => json!(true),
            "uuid" => json!("8c98ccda-7b41-41f7-a1ec-7e51420c4006"),
            "uint8" => json!(u8::MAX),
            "uint16" => json!(u16::MAX),
            "uint32" => json!(u32::MAX),
            "uint64" => json!(u64::MAX),
            "int32" => json!(i32::MIN),
            other => panic!("unknown type {other:?}"),
        }
    }

    /// An object with all its fields.
    fn full(&self, fields: &BTreeMap<String, String>) -> Map<String, Value> {
        let first = |kind: &str| self.values(kind.trim_end_matches('?')).remove(0);
        fields.iter().map(|(name, kind)| (name.clone(), first(kind))).collect()
    }
}

/// Decoded and encoded again.
fn round_trip<C: Call>(params: &Map<String, Value>) -> Result<Value, serde_json::Error> {
    serde_json::to_value(serde_json::from_value::<C>(Value::Object(params.clone()))?)
}

fn check<C: Call>(schema: &Schema, seen: &mut BTreeSet<&'static str>) {
    let method = C::METHOD;
    assert!(seen.insert(method), "{method} is declared twice");
    let fields = schema.methods.get(method).unwrap_or_else(|| panic!("SPDK has no {method}"));
    let declared: BTreeSet<_> = C::PARAMS.iter().map(|p| (p.name, p.required)).collect();
    let expected: BTreeSet<_> =
        fields.iter().map(|(name, kind)| (name.as_str(), !kind.ends_with('?'))).collect();
    assert_eq!(declared, expected, "parameters of {method}");

    let full = schema.full(fields);
    assert_eq!(round_trip::<C>(&full).unwrap(), Value::Object(full.clone()), "{method}");
    for (name, kind) in fields {
        for value in schema.values(kind.trim_end_matches('?')) {
            let mut params = full.clone();
            params.insert(name.clone(), value.clone());
            let sent = round_trip::<C>(&params).unwrap_or_else(|e| panic!("{method} {name} {value}: {e}"));
            assert_eq!(sent[name], canonical(value), "{method} {name}");
        }
        let mut without = full.clone();
        without.remove(name);
        let sent = round_trip::<C>(&without);
        match kind.ends_with('?') {
            true => assert_eq!(sent.unwrap(), Value::Object(without), "{method} without {name}"),
            false => assert!(sent.is_err(), "{method} without {name}, which is required"),
        }
    }
    let mut more = full;
    more.insert("no_such_parameter".to_owned(), json!(1));
    assert!(round_trip::<C>(&more).is_err(), "{method} accepts an unknown parameter");
}

/// Words that are accepted and sent as another one.
fn canonical(value: Value) -> Value {
    match value.as_str() {
        Some("0") => json!("raid0"),
        Some("1") => json!("raid1"),
        Some("5f") => json!("raid5f"),
        _ => value,
    }
}

macro_rules! check_all {
    ($schema:expr; $($call:ident)*) => {{
        let mut seen = BTreeSet::new();
        $( check::<$call>($schema, &mut seen); )*
        seen
    }};
}

#[test]
fn calls_are_those_of_spdk() {
    let schema = schema();
    let seen = check_all!(&schema;
        FrameworkStartInit FrameworkWaitInit FrameworkGetSubsystems FrameworkGetConfig
        FrameworkGetReactors IobufSetOptions RpcGetMethods SpdkGetVersion SpdkKillInstance ThreadGetStats LogSetLevel
        LogGetLevel LogSetPrintLevel LogGetPrintLevel LogSetFlag LogClearFlag LogGetFlags BdevSetOptions
        BdevGetBdevs BdevExamine BdevWaitForExamine BdevGetIostat BdevResetIostat BdevSetQosLimit
        BdevSetQdSamplingPeriod BdevEnableHistogram BdevGetHistogram BdevMallocCreate BdevMallocDelete
        BdevNullCreate BdevNullDelete BdevNullResize BdevAioCreate BdevAioRescan BdevAioDelete
        BdevUringCreate BdevUringRescan BdevUringDelete BdevDelayCreate BdevDelayUpdateLatency
        BdevDelayDelete BdevErrorCreate BdevErrorDelete BdevErrorInjectError BdevErrorResumePending
        BdevPassthruCreate BdevPassthruDelete BdevLvolCreateLvstore BdevLvolDeleteLvstore
        BdevLvolRenameLvstore BdevLvolGrowLvstore BdevLvolGetLvstores BdevLvolCreate BdevLvolDelete
        BdevLvolResize BdevLvolRename BdevLvolGetLvols BdevLvolSnapshot BdevLvolClone BdevLvolCloneBdev
        BdevLvolInflate BdevLvolDecoupleParent BdevLvolSetParent BdevLvolSetParentBdev BdevLvolSetReadOnly
        BdevLvolStartShallowCopy BdevLvolCheckShallowCopy BdevRaidCreate BdevRaidDelete
        BdevRaidAddBaseBdev BdevRaidRemoveBaseBdev BdevRaidGetBdevs BdevRaidSetOptions
        BdevNvmeAttachController BdevNvmeDetachController BdevNvmeGetControllers BdevNvmeSetOptions
        BdevNvmeSetHotplug BdevNvmeResetController BdevNvmeEnableController BdevNvmeDisableController
        BdevNvmeGetIoPaths BdevNvmeSetPreferredPath BdevNvmeSetMultipathPolicy BdevNvmeGetPathIostat
        BdevNvmeGetTransportStatistics BdevNvmeGetControllerHealthInfo BdevNvmeSendCmd NvmfCreateTransport
        NvmfGetTransports NvmfCreateSubsystem NvmfDeleteSubsystem NvmfGetSubsystems NvmfSubsystemAddNs
        NvmfSubsystemRemoveNs NvmfSubsystemSetNsAnaGroup NvmfNsAddHost NvmfNsRemoveHost
        NvmfSubsystemAddHost NvmfSubsystemRemoveHost NvmfSubsystemAllowAnyHost NvmfSubsystemAddListener
        NvmfSubsystemRemoveListener NvmfSubsystemListenerSetAnaState NvmfSubsystemGetListeners
        NvmfSubsystemGetControllers NvmfSubsystemGetQpairs NvmfGetStats NvmfDiscoveryAddReferral
        NvmfDiscoveryRemoveReferral NvmfDiscoveryGetReferrals NvmfSetConfig NvmfSetMaxSubsystems
        NvmfSetCrdt NvmfGetTargets
    );
    assert_eq!(seen, declared_calls(), "calls of this crate that are not checked");
}

/// The methods that the sources declare a call for: `Name = "method" -> Reply, {`.
fn declared_calls() -> BTreeSet<&'static str> {
    let sources = [
        include_str!("../src/bdev.rs"),
        include_str!("../src/bdev_modules.rs"),
        include_str!("../src/bdev_nvme.rs"),
        include_str!("../src/framework.rs"),
        include_str!("../src/lvol.rs"),
        include_str!("../src/nvmf.rs"),
        include_str!("../src/raid.rs"),
    ];
    let modules = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap();
    let declaring = modules.filter(|file| {
        let path = file.as_ref().unwrap().path();
        path.is_file() && std::fs::read_to_string(path).unwrap().contains("\nrpc! {")
    });
    assert_eq!(declaring.count(), sources.len(), "a module with calls is not read here");
    let method = |line: &'static str| line.strip_prefix("    ")?.split_once(" = \"")?.1.split_once("\" -> ");
    sources.iter().flat_map(|source| source.lines()).filter_map(method).map(|(name, _)| name).collect()
}

/// One reply of every shape that was recorded from SPDK: decodes, and what is known of it survives.
#[test]
fn recorded_replies_decode() {
    let mut decoded = BTreeSet::new();
    for line in include_str!("replies.jsonl").lines() {
        let recorded: Value = serde_json::from_str(line).unwrap();
        let method = recorded["method"].as_str().unwrap();
        let known = decode_reply(method, &recorded["result"]);
        assert_eq!(known, recorded["result"], "{method}");
        decoded.insert(method.to_owned());
    }
    assert!(decoded.len() > 60, "only {} methods", decoded.len());
}

fn decode_reply(method: &str, result: &Value) -> Value {
    fn through<C: Call>(result: &Value) -> Value {
        // From text, as the client does it: numbers beyond 64 bits and borrowed strings behave differently in a `Value`.
        let reply: C::Reply = serde_json::from_str(&result.to_string())
            .unwrap_or_else(|e| panic!("{} {result}: {e}", C::METHOD));
        serde_json::to_value(reply).unwrap()
    }
    macro_rules! by_name {
        ($($call:ident)*) => {
            match method { $( <$call as Call>::METHOD => through::<$call>(result), )* other => panic!("no call for {other}") }
        };
    }
    by_name!(
        FrameworkStartInit FrameworkWaitInit FrameworkGetSubsystems FrameworkGetConfig
        FrameworkGetReactors IobufSetOptions RpcGetMethods SpdkGetVersion SpdkKillInstance ThreadGetStats LogSetLevel
        LogGetLevel LogSetPrintLevel LogGetPrintLevel LogSetFlag LogClearFlag LogGetFlags BdevSetOptions
        BdevGetBdevs BdevExamine BdevWaitForExamine BdevGetIostat BdevResetIostat BdevSetQosLimit
        BdevSetQdSamplingPeriod BdevEnableHistogram BdevGetHistogram BdevMallocCreate BdevMallocDelete
        BdevNullCreate BdevNullDelete BdevNullResize BdevAioCreate BdevAioRescan BdevAioDelete
        BdevUringCreate BdevUringRescan BdevUringDelete BdevDelayCreate BdevDelayUpdateLatency
        BdevDelayDelete BdevErrorCreate BdevErrorDelete BdevErrorInjectError BdevErrorResumePending
        BdevPassthruCreate BdevPassthruDelete BdevLvolCreateLvstore BdevLvolDeleteLvstore
        BdevLvolRenameLvstore BdevLvolGrowLvstore BdevLvolGetLvstores BdevLvolCreate BdevLvolDelete
        BdevLvolResize BdevLvolRename BdevLvolGetLvols BdevLvolSnapshot BdevLvolClone BdevLvolCloneBdev
        BdevLvolInflate BdevLvolDecoupleParent BdevLvolSetParent BdevLvolSetParentBdev BdevLvolSetReadOnly
        BdevLvolStartShallowCopy BdevLvolCheckShallowCopy BdevRaidCreate BdevRaidDelete
        BdevRaidAddBaseBdev BdevRaidRemoveBaseBdev BdevRaidGetBdevs BdevRaidSetOptions
        BdevNvmeAttachController BdevNvmeDetachController BdevNvmeGetControllers BdevNvmeSetOptions
        BdevNvmeSetHotplug BdevNvmeResetController BdevNvmeEnableController BdevNvmeDisableController
        BdevNvmeGetIoPaths BdevNvmeSetPreferredPath BdevNvmeSetMultipathPolicy BdevNvmeGetPathIostat
        BdevNvmeGetTransportStatistics BdevNvmeGetControllerHealthInfo BdevNvmeSendCmd NvmfCreateTransport
        NvmfGetTransports NvmfCreateSubsystem NvmfDeleteSubsystem NvmfGetSubsystems NvmfSubsystemAddNs
        NvmfSubsystemRemoveNs NvmfSubsystemSetNsAnaGroup NvmfNsAddHost NvmfNsRemoveHost
        NvmfSubsystemAddHost NvmfSubsystemRemoveHost NvmfSubsystemAllowAnyHost NvmfSubsystemAddListener
        NvmfSubsystemRemoveListener NvmfSubsystemListenerSetAnaState NvmfSubsystemGetListeners
        NvmfSubsystemGetControllers NvmfSubsystemGetQpairs NvmfGetStats NvmfDiscoveryAddReferral
        NvmfDiscoveryRemoveReferral NvmfDiscoveryGetReferrals NvmfSetConfig NvmfSetMaxSubsystems
        NvmfSetCrdt NvmfGetTargets
    )
}
