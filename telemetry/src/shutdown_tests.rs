use super::*;

#[tokio::test(start_paused = true)]
async fn finish_waits_for_tasks_that_listen() {
    let shutdown = Shutdown::new();
    let token = shutdown.token();
    let task = shutdown.spawn(async move {
        token.cancelled().await;
        7
    });
    assert!(shutdown.finish(Duration::from_secs(1)).await);
    assert_eq!(task.await.unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn finish_reports_tasks_that_do_not_end() {
    let shutdown = Shutdown::new();
    shutdown.spawn(std::future::pending::<()>());
    assert!(!shutdown.finish(Duration::from_secs(1)).await);
    assert!(shutdown.is_triggered());
}
