pub mod bdev;
