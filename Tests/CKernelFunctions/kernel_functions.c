#include "kernel_functions.h"
