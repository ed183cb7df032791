"""CSV and parquet: the names under which the rest of the corpus room knows their readers.

In: nothing of its own. Out: the readers of both kinds of table. It holds no code.
"""

from chatlm.corpus.parquet_file import ParquetPlan, open_parquet, parquet_plan
from chatlm.corpus.read_csv import encoding_of, read_csv
from chatlm.corpus.read_parquet import read_parquet, read_parquet_batches
from chatlm.corpus.table_header import Columns, require_columns

__all__ = [
    "Columns",
    "ParquetPlan",
    "encoding_of",
    "open_parquet",
    "parquet_plan",
    "read_csv",
    "read_parquet",
    "read_parquet_batches",
    "require_columns",
]
