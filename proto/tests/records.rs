//! What etcd stores today must be readable for ever: bytes of every stored message, written when the message came into being, are
//! checked in under `records/` together with what they mean, and are decoded here.
//!
//! A new message gets its files by one run with `VDA_RECORD_NEW=1`; existing files are never written again. A new field does not
//! change them. A field that was removed, renumbered, renamed or has another type fails here.

use std::{collections::BTreeSet, env, fs, path::PathBuf};

use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions, Value,
};
use vda_proto::v1::*;

/// Every message of `record.proto` that is a value in etcd.
macro_rules! stored {
    ($($message:ident)*) => {
        const STORED: &[(&str, fn(&[u8]) -> Vec<u8>)] = &[$((stringify!($message), reencode::<$message>)),*];
    };
}
stored! {
    NameIndex DnSpec PdSpec DnCapacity DnShare CnSpec CnCapacity CntlrSpec ExpSpec LegState DaRecord DaTombstone
    DnStatus BootRecord ShareStatus CnStatus CntlrStatus RequestRecord MemberRecord
}

fn reencode<M: Message + Default>(bytes: &[u8]) -> Vec<u8> {
    M::decode(bytes).expect("decodes").encode_to_vec()
}

fn pool() -> DescriptorPool {
    DescriptorPool::decode(vda_proto::DESCRIPTORS).expect("descriptors")
}

fn file(name: &str, extension: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/records").join(format!("{name}.{extension}"))
}

/// A message with every field set, to something that differs between fields.
fn full(descriptor: &MessageDescriptor) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields() {
        let value = if field.is_list() {
            Value::List(vec![value(&field, 1), value(&field, 2)])
        } else {
            value(&field, 0)
        };
        message.set_field(&field, value);
    }
    message
}

fn value(field: &FieldDescriptor, salt: u32) -> Value {
    let number = field.number() * 10 + salt;
    match field.kind() {
        Kind::String => Value::String(format!("{}-{salt}", field.name())),
        Kind::Bytes => Value::Bytes(vec![0xff, u8::try_from(number).expect("small")].into()),
        Kind::Bool => Value::Bool(true),
        Kind::Uint32 => Value::U32(number),
        Kind::Uint64 => Value::U64(u64::from(number) << 33),
        Kind::Int32 => Value::I32(-i32::try_from(number).expect("small")),
        Kind::Int64 => Value::I64(-(i64::from(number) << 33)),
        Kind::Enum(numbers) => Value::EnumNumber(numbers.values().last().expect("has values").number()),
        Kind::Message(message) => Value::Message(full(&message)),
        other => panic!("{}: {other:?} is not used in records so far", field.full_name()),
    }
}

fn json(message: &DynamicMessage) -> String {
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(true);
    let mut out = Vec::new();
    message
        .serialize_with_options(&mut serde_json::Serializer::pretty(&mut out), &options)
        .expect("serialises");
    out.push(b'\n');
    String::from_utf8(out).expect("UTF-8")
}

#[test]
fn bytes_of_every_stored_message_are_read_as_they_were_meant() {
    let pool = pool();
    for (name, reencode) in STORED {
        let descriptor = pool.get_message_by_name(&format!("vda.v1.{name}")).expect("descriptor");
        if env::var_os("VDA_RECORD_NEW").is_some() && !file(name, "bin").exists() {
            let message = full(&descriptor);
            fs::write(file(name, "bin"), message.encode_to_vec()).expect("writable");
            fs::write(file(name, "json"), json(&message)).expect("writable");
        }
        let bytes = fs::read(file(name, "bin")).unwrap_or_else(|e| panic!("records/{name}.bin: {e}"));
        let meaning =
            fs::read_to_string(file(name, "json")).unwrap_or_else(|e| panic!("records/{name}.json: {e}"));
        let decoded = DynamicMessage::decode(descriptor, bytes.as_slice()).expect("decodes");
        assert_eq!(decoded.unknown_fields().count(), 0, "{name}: a field was removed or renumbered");
        assert_eq!(json(&decoded), meaning, "{name}");
        assert_eq!(reencode(&bytes), bytes, "{name}: reading and writing it loses something");
    }
}

/// `schema_version` marks what is stored: a message that has it must be in the list above.
#[test]
fn no_stored_message_is_forgotten() {
    let has_version = |message: &MessageDescriptor| message.get_field_by_name("schema_version").is_some();
    let all: BTreeSet<String> =
        pool().all_messages().filter(has_version).map(|message| message.name().to_owned()).collect();
    let listed: BTreeSet<String> = STORED.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(listed, all);
}
