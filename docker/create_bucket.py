"""Make the bucket for MLflow's artifacts, unless it is there. Settings come from the environment.

``S3_BUCKET`` names it, ``MLFLOW_S3_ENDPOINT_URL`` the store; the keys are boto3's own variables.
"""

import os

import boto3


def main() -> None:
    """Make the bucket; a store that does not answer or refuses ends this with boto3's error."""
    bucket = os.environ["S3_BUCKET"]
    store = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    if bucket in {found["Name"] for found in store.list_buckets()["Buckets"]}:
        print(f"bucket {bucket} is there")
    else:
        store.create_bucket(Bucket=bucket)
        print(f"bucket {bucket} made")


if __name__ == "__main__":
    main()
