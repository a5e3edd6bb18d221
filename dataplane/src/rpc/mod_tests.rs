use vda_spdk::{
    BdevExamine, BdevMallocDelete, BdevRaidGetBdevs, BdevSetOptions, BdevWaitForExamine, LogLevel,
    NvmfDeleteSubsystem,
};

use super::*;
use crate::app::LogLevels;

async fn answer(
    methods: &Methods,
    app: &Rc<App>,
    method: &str,
    params: &str,
) -> Result<String, (i64, String)> {
    let params: Option<Box<RawValue>> = serde_json::from_str(params).unwrap();
    let outcome = methods.dispatch(app, method, params.as_deref()).await;
    outcome.map(|raw| raw.get().to_owned()).map_err(|error| (error.code, error.message.into_owned()))
}

fn app() -> Rc<App> {
    App::new(LogLevels::new(LogLevel::Notice, |_| {}))
}

#[tokio::test(flavor = "local")]
async fn a_method_is_refused_outside_its_phase() {
    let app = app();
    let mut methods = Methods::default();
    methods.method::<BdevSetOptions>(State::Startup, async |_, _| Ok(true));
    methods.method::<BdevMallocDelete>(State::Runtime, async |_, call| Ok(call.name == "m0"));
    let delete = r#"{"name":"m0"}"#;

    assert_eq!(answer(&methods, &app, "bdev_set_options", "null").await, Ok("true".to_owned()));
    let (code, message) = answer(&methods, &app, "bdev_malloc_delete", delete).await.unwrap_err();
    assert_eq!(code, -1);
    assert_eq!(
        message,
        "Method may only be called after framework is initialized using framework_start_init RPC."
    );

    app.start().await.unwrap();
    assert_eq!(answer(&methods, &app, "bdev_malloc_delete", delete).await, Ok("true".to_owned()));
    let (code, message) = answer(&methods, &app, "bdev_set_options", "null").await.unwrap_err();
    assert_eq!(code, -1);
    assert_eq!(
        message,
        "Method may only be called before framework is initialized. Use --wait-for-rpc command line parameter and \
         then issue this RPC before the framework_start_init RPC."
    );
    assert_eq!(
        answer(&methods, &app, "no_such_method", "null").await,
        Err((-32601, "Method not found".to_owned()))
    );
}

#[tokio::test(flavor = "local")]
async fn bad_parameters_are_answered_as_each_family_does() {
    let app = app();
    let mut methods = Methods::default();
    methods.method::<BdevMallocDelete>(State::Any, async |_, _| Ok(true));
    methods.method::<BdevRaidGetBdevs>(State::Any, async |_, _| Ok(Vec::new()));
    methods.method::<NvmfDeleteSubsystem>(State::Any, async |_, _| Ok(true));
    methods.method::<BdevExamine>(State::Any, async |_, _| Ok(true));
    methods.method::<BdevWaitForExamine>(State::Any, async |_, _| Ok(true));
    let decode = "spdk_json_decode_object failed";
    for (method, params, code, message) in [
        ("bdev_malloc_delete", "null", -32603, decode),
        ("bdev_malloc_delete", r#"{"name":1}"#, -32603, decode),
        ("bdev_malloc_delete", r#"{"name":"a","bogus":1}"#, -32603, decode),
        ("bdev_malloc_delete", r#"["a"]"#, -32603, decode),
        ("bdev_raid_get_bdevs", r#"{"category":"bogus"}"#, -32700, decode),
        ("bdev_raid_get_bdevs", "null", -32700, decode),
        ("nvmf_delete_subsystem", "{}", -32602, "Invalid parameters"),
        ("bdev_examine", "{}", -32602, decode),
        ("bdev_wait_for_examine", r#"{"x":1}"#, -32602, "bdev_wait_for_examine requires no parameters"),
    ] {
        let refused = answer(&methods, &app, method, params).await;
        assert_eq!(refused, Err((code, message.to_owned())), "{method} {params}");
    }
}

#[tokio::test(flavor = "local")]
async fn a_start_hook_that_fails_stops_the_process() {
    let app = app();
    app.on_start(|_| async { Err(RpcError::errno(Errno::ENOMEM)) });
    assert_eq!(app.start().await.unwrap_err(), RpcError::errno(Errno::ENOMEM));
    assert!(app.shutdown().is_cancelled());
    assert_ne!(app.phase(), Phase::Runtime);
}

#[test]
#[should_panic(expected = "two handlers for bdev_malloc_delete")]
fn a_method_has_one_handler() {
    let mut methods = Methods::default();
    methods.method::<BdevMallocDelete>(State::Any, async |_, _| Ok(true));
    methods.method::<BdevMallocDelete>(State::Any, async |_, _| Ok(false));
}
