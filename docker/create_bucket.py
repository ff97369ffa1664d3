"""Create the bucket for MLflow's artifacts if it does not exist.

The settings are environment variables: ``S3_BUCKET`` is the name of the bucket,
``MLFLOW_S3_ENDPOINT_URL`` the address of the store, and the keys are boto3's own variables.
"""

import os

import boto3


def main() -> None:
    """Create the bucket. If the store does not answer or refuses, boto3's error ends this."""
    bucket = os.environ["S3_BUCKET"]
    store = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    if bucket in {found["Name"] for found in store.list_buckets()["Buckets"]}:
        print(f"bucket {bucket} already exists")
    else:
        store.create_bucket(Bucket=bucket)
        print(f"bucket {bucket} created")


if __name__ == "__main__":
    main()
