"""What runs: a Prefect flow for each long job, and the command line over them."""
