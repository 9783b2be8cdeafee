"""A model of Tandem that can be simulated: where time and CPU go at rates and sizes that no machine here has."""
